//! Limits of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the number of files that this process may have open as far as it is allowed to, and returns it. The
/// passthrough file system keeps handles of the files that the kernel knows, and a tree 1,000 deep needs one for each
/// level. [`crate::command`] gives its children the usual 1,024 again.
pub fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let most: u64 = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1 << 20);
    // Root may raise the hard limit as well; everybody else the soft one up to it.
    let wanted = Rlimit { current: Some(most), maximum: Some(most) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(most)
}

/// Keeps buffers of megabytes out of the heap. `fuser` zeroes 16 MiB for each of its threads and uses little of it;
/// fresh from the kernel that costs nothing, but once glibc has seen such a buffer freed it takes the next ones from the
/// heap and touches all of it: hundreds of MiB for each mount after the first.
#[allow(unsafe_code, reason = "mallopt has no safe wrapper")]
pub fn keep_big_buffers_lazy() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two numbers; a threshold that is set by hand is no longer moved.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}
