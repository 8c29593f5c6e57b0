//! How the allocator of the C library keeps memory that was freed. It has the only unsafe code of the
//! workspace, one call.
//!
//! The allocator of glibc returns the free end of a heap to the kernel as soon as it is 128 KiB long. A
//! replica frees the documents that each change replaces, so it would return pages and ask for them
//! again with nearly every change: the kernel interrupts the other processors for that, where readers
//! run. Under another C library nothing is changed.

use std::ffi::OsStr;

/// What the end of a heap may keep, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT: libc::c_int = 16 << 20;
/// From this size on an allocation has pages of its own, which are returned when it is freed, in bytes.
/// It is the most that glibc sets by itself, which it does no more once [`KEPT`] is set.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_PAGES: libc::c_int = 32 << 20;
/// An operator who sets one of these decides.
const OF_OPERATOR: [&str; 3] = [
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
];

/// Lets each heap of this process keep 16 MiB of freed memory. To be called at the start of a program;
/// it does nothing where the environment has settings of the allocator.
pub fn keep_freed_memory() {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| value != OsStr::new(""));
    if !OF_OPERATOR.into_iter().any(is_set) {
        tune();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no crate offers a safe call")]
fn tune() {
    for (option, value) in [
        (libc::M_TRIM_THRESHOLD, KEPT),
        (libc::M_MMAP_THRESHOLD, OWN_PAGES),
    ] {
        // SAFETY: it takes two numbers, may be called at any time (mallopt(3): MT-Safe), and refuses
        // what it does not know. A refusal leaves the allocator as it was.
        unsafe { libc::mallopt(option, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn tune() {}
