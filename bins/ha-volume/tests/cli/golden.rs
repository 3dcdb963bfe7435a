//! What people get to see, word by word.

use ha_testkit::need;

use crate::Place;

#[test]
fn a_replica_and_what_is_made_of_it() {
    let place = need!(Place::of("a1-chain.tar.zst"));
    let inspected = place.run(&["inspect", "pvc-a1-r1"]);
    inspected.assert_success();
    insta::assert_snapshot!(inspected.stdout, @r"
    replica   pvc-a1-r1
    size      128.0 MiB (134,217,728 bytes)
    flags     none
    revision  156
    inside    ext4, 128.0 MiB, written 2026-11-20T23:10:55Z

    layer                              length       data  extents  written               checksum  remarks
    volume-head-003.img             128.0 MiB   60.0 KiB       10  2026-11-20T23:10:55Z  -
      volume-snap-snap-three.img    128.0 MiB  220.0 KiB       10  2026-11-20T23:10:55Z  -
        volume-snap-snap-two.img    128.0 MiB    1.3 MiB        4  2026-11-20T23:10:55Z  -
          volume-snap-snap-one.img  128.0 MiB   23.0 MiB       13  2026-11-20T23:10:55Z  -         step=1
    ");
    insta::assert_snapshot!(place.run(&["doctor", "pvc-a1-r1"]).stdout, @r"
    pvc-a1-r1: 6,281 allocated blocks of 4 KiB, 3,375 of them zeros; inside ext4, 128.0 MiB, written 2026-11-20T23:10:55Z
    no sign that copying has changed it
    ");
    insta::assert_snapshot!(place.run(&["ls", "pvc-a1-r1"]).stdout, @r"
    drwxr-xr-x  0:0     1024  2026-11-20T23:10:55Z  /db
    -rw-r--r--  0:0        5  2026-11-20T23:10:55Z  /head.txt
    drwx------  0:0    12288  2026-11-20T23:10:55Z  /lost+found
    -rw-r--r--  0:0       12  2026-11-20T23:10:55Z  /note.txt
    -rw-r--r--  0:0  6291456  2026-11-20T23:10:55Z  /rand.bin
    -rw-r--r--  0:0  1288895  2026-11-20T23:10:55Z  /seq.txt
    ");
    let merged = place.run(&["merge", "pvc-a1-r1", "-o", "x.img"]);
    insta::assert_snapshot!(merged.stdout, @r"
    x.img: 128.0 MiB (134,217,728 bytes), 9.8 MiB of data, from 4 layers
    blocks blake3 c4e51687f84edb76c5ca075ad923963473de7746352738930489ab3a611aaedc
    marker x.img.ha-volume.json
    inside ext4, 128.0 MiB, written 2026-11-20T23:10:55Z
    next: ha-volume ls -R x.img, or as root: mount -o loop,ro x.img /mnt
    ");
    assert_eq!(merged.stderr, "");
}

#[test]
fn a_replica_that_halts() {
    let place = need!(Place::of("c3-rebuilding.tar.zst"));
    let outcome = place.run(&["merge", "pvc-c3-r2", "-o", "x.img"]);
    outcome.assert_code(5);
    insta::assert_snapshot!(outcome.stderr, @r"
    error: the replica is damaged: pvc-c3-r2
    caused by: snapshots beside the chain, as a rebuild that was cut off leaves them: volume-snap-s2.img
    hint: is there a better replica: ha-volume scan
    hint: to go on all the same: --despite-damage
    ");
}
