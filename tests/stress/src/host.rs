// SPDX-License-Identifier: GPL-2.0

//! The kernel that the tests run on: CPUs, modules and `/proc`.

use crate::ktap::Env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The device of `kvm_intel`.
pub(crate) const KVM: &str = "/dev/kvm";

/// How long a wait may take. Time in the lab counts instructions: with two CPUs
/// this is one or two minutes of a machine that is stuck.
const PATIENCE: Duration = Duration::from_millis(1500);

/// CPUs that are online.
pub(crate) fn cpus() -> usize {
    // SAFETY: sysconf has no preconditions.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap()
}

/// The kernel's number of the calling thread.
pub(crate) fn thread() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }
}

/// Lets a thread (0: the caller) run on `cpus` only.
pub(crate) fn pin(thread: i32, cpus: &[usize]) {
    // SAFETY: All zeroes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: The set is a valid local.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: The set is a valid local of the size given.
    let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &set) };
    assert_eq!(result, 0, "affinity: {}", io::Error::last_os_error());
}

/// Ends a thread's restriction, when dropped even after a failure.
pub(crate) struct Pinned(i32);

impl Pinned {
    pub(crate) fn here(cpu: usize) -> Self {
        pin(0, &[cpu]);
        Self(0)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        pin(self.0, &(0..cpus()).collect::<Vec<_>>());
    }
}

/// Lets others run.
pub(crate) fn give_way() {
    // SAFETY: sched_yield has no preconditions.
    unsafe { libc::sched_yield() };
}

/// Waits for something that must happen soon.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        give_way();
    }
}

/// Whether a module is loaded.
pub(crate) fn loaded(name: &str) -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    modules
        .lines()
        .any(|line| line.split(' ').next() == Some(name))
}

/// Loads a module from a file.
pub(crate) fn load_module(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    // SAFETY: The file is open and the string ends with 0.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unloads a module, or says at once why it cannot.
pub(crate) fn unload_module(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: The string ends with 0.
    match unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Loads the module under test, if it is not there.
pub(crate) fn ensure_module(env: &Env) -> io::Result<()> {
    if !env.ours() || loaded("kvm_spp") {
        return Ok(());
    }
    load_module(&env.module, "")
}

/// A line of `/proc/meminfo` or `/proc/vmstat`: the first number after `key`.
pub(crate) fn counter(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text
        .lines()
        .find(|line| line.split([' ', ':']).next() == Some(key))
        .unwrap_or_else(|| panic!("{file} has no {key}"));
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Writes to a file of the kernel; false if it is not there.
pub(crate) fn set(file: &str, value: &str) -> bool {
    match fs::write(file, value) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => panic!("{file} = {value}: {error}"),
    }
}

/// Waits for a child and returns its exit status, or 128 + the signal.
pub(crate) fn wait_for(child: i32) -> i32 {
    let mut status = 0;
    let mut result = 0;
    wait_until("the child ends", || {
        // SAFETY: `status` is a valid place for the result.
        result = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        result != 0
    });
    assert_eq!(result, child);
    match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status),
        false => libc::WEXITSTATUS(status),
    }
}

/// Runs `body` in a child, which then ends with the status it returns. The
/// caller must be the only thread, since the child gets no other.
pub(crate) fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: No other thread could hold a lock that the child needs.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        let body = std::panic::AssertUnwindSafe(body);
        let status = std::panic::catch_unwind(body).unwrap_or(101);
        // SAFETY: Ends the child without running what is the parent's to run.
        unsafe { libc::_exit(status) };
    }
    child
}
