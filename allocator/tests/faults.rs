//! Memory that is freed and needed again costs no page faults.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::{hint::black_box, thread};

/// Page faults of a new thread that takes and frees 2 MiB in small pieces fifty times.
fn faults() -> u64 {
    let work = || {
        let before = faults_of_thread();
        for _round in 0..50 {
            let pieces: Vec<_> = (0..2_048_u32).map(|_| vec![1_u8; 1_024]).collect();
            black_box(pieces);
        }
        faults_of_thread() - before
    };
    thread::spawn(work).join().expect("no panic")
}

/// Field 10 of proc(5)'s `stat`: minor faults.
fn faults_of_thread() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("proc");
    let after_name = stat.rsplit(')').next().expect("a name");
    let field = after_name.split_whitespace().nth(7).expect("a field");
    field.parse().expect("a number")
}

#[test]
fn freed_memory_is_kept() {
    let returned = faults();
    allocator::keep_freed_memory();
    let kept = faults();
    // 2 MiB are 512 pages. Large pages, or settings of the environment, may cost none in both cases.
    assert!(
        kept < 2 * 1_024,
        "{kept} faults, {returned} without the setting"
    );
}
