//! Images of many kinds, filled through the kernel.

use std::path::Path;

use ha_testkit::loopmount::Skipped;
use ha_testkit::need;

use crate::{Place, assert_same, losses, ours, populate};

/// Fills an image through the kernel, and reads it with both.
fn same(options: &[&str], size: &str, mount: &str) -> Result<(), Skipped> {
    same_with(options, size, mount, &|_| {})
}

fn same_with(options: &[&str], size: &str, mount: &str, more: &dyn Fn(&Path)) -> Result<(), Skipped> {
    let what = format!("mke2fs {} {size}", options.join(" "));
    let place = Place::new(options, size)?;
    let mounted = place.mount(mount)?;
    populate::fill(mounted.path(), 4711);
    more(mounted.path());
    drop(mounted);
    let kernel = place.by_kernel();
    let files = place.open();
    let (ours, failed) = ours::tree(&files);
    assert!(failed.is_empty(), "{what}: {failed:?}");
    assert!(losses(&files).is_empty(), "{what}: {:?}", losses(&files));
    assert!(kernel.len() > 500, "{what}: {}", kernel.len());
    assert_same(&what, &kernel, &ours);
    Ok(())
}

macro_rules! images {
    ($($name:ident: [$($option:literal),* $(,)?], $size:literal;)*) => {
        $(#[test]
        fn $name() {
            need!(same(&[$($option),*], $size, "rw,noatime"));
        })*
    };
}

images! {
    ext4_as_it_is_made: ["-t", "ext4"], "600M";
    ext4_with_blocks_of_1_kib: ["-t", "ext4", "-b", "1024"], "64M";
    ext4_with_blocks_of_2_kib: ["-t", "ext4", "-b", "2048", "-N", "4000"], "64M";
    short_inodes: ["-t", "ext4", "-b", "4096", "-I", "128", "-O", "^resize_inode"], "64M";
    long_inodes: ["-t", "ext4", "-b", "4096", "-I", "1024"], "64M";
    without_checksums: ["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"], "64M";
    without_64_bits: ["-t", "ext4", "-b", "4096", "-O", "^64bit,^metadata_csum,uninit_bg"], "64M";
    without_64_bits_with_checksums: ["-t", "ext4", "-b", "4096", "-O", "^64bit"], "64M";
    with_a_seed: ["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed"], "64M";
    clusters: ["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"], "128M";
    content_in_inodes: ["-t", "ext4", "-b", "4096", "-O", "inline_data"], "64M";
    content_in_long_inodes: ["-t", "ext4", "-b", "4096", "-O", "inline_data", "-I", "512"], "64M";
    attributes_in_inodes: ["-t", "ext4", "-b", "4096", "-O", "ea_inode"], "64M";
    large_directories: ["-t", "ext4", "-b", "4096", "-O", "large_dir"], "64M";
    meta_groups: ["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "1024"], "64M";
    meta_groups_of_32_bits: ["-t", "ext4", "-O", "meta_bg,^resize_inode,^64bit", "-b", "1024", "-g", "1024"], "96M";
    few_copies: ["-t", "ext4", "-O", "sparse_super2,^resize_inode", "-b", "1024", "-g", "2048"], "64M";
    block_maps_on_ext4: ["-t", "ext4", "-b", "4096", "-O", "^extent,^64bit"], "64M";
    no_kinds_in_directories: ["-t", "ext4", "-b", "4096", "-O", "^filetype,^dir_index"], "64M";
    flexible_groups_off: ["-t", "ext4", "-O", "^flex_bg", "-b", "1024", "-g", "2048"], "64M";
    without_journal: ["-t", "ext4", "-b", "4096", "-O", "^has_journal"], "64M";
    with_orphan_file: ["-t", "ext4", "-b", "4096", "-O", "orphan_file"], "64M";
    ext3: ["-t", "ext3", "-b", "4096"], "64M";
    ext3_with_blocks_of_1_kib: ["-t", "ext3", "-b", "1024", "-I", "128"], "64M";
    ext2: ["-t", "ext2", "-b", "4096"], "64M";
    ext2_with_blocks_of_1_kib: ["-t", "ext2", "-b", "1024"], "64M";
    ext2_of_the_first_revision: ["-t", "ext2", "-r", "0", "-b", "1024", "-O", "none"], "64M";
}

#[test]
fn a_directory_of_twenty_thousand_names() {
    for options in
        [&["-t", "ext4", "-b", "4096", "-N", "1000"][..], &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"]]
    {
        need!(same_with(options, "96M", "rw,noatime", &|top| {
            let huge = top.join("huge");
            std::fs::create_dir(&huge).unwrap();
            let first = huge.join("first");
            std::fs::write(&first, "x").unwrap();
            for index in 0..20_000 {
                std::fs::hard_link(&first, huge.join(format!("a-name-that-takes-some-space-{index}"))).unwrap();
            }
        }));
    }
}
