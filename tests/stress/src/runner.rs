// SPDX-License-Identifier: GPL-2.0

//! A vCPU on a thread of its own, which can be stopped at any time.
//!
//! ```text
//!   stopper                     vCPU's thread
//!   immediate_exit = 1
//!   signal ------------------>  in the guest: KVM_RUN ends with EINTR
//!                               before KVM_RUN: ends at once, immediate_exit
//! ```
//! So there is no moment at which the signal is lost.

use crate::host;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use vmm::{Exit, Result, Vcpu, Vm};

/// Whether the vCPU goes on after an exit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    Done,
}

/// The signal that interrupts KVM_RUN.
pub(crate) const KICK: i32 = libc::SIGUSR1;

extern "C" fn ignore(_signal: i32) {}

/// Makes `KICK` interrupt system calls and do nothing else.
pub(crate) fn install_kick() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: All zeroes are a valid action without flags, so no SA_RESTART.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = (ignore as extern "C" fn(i32)).expose();
        // SAFETY: The handler does nothing, so it is safe in any context.
        let result = unsafe { libc::sigaction(KICK, &action, std::ptr::null_mut()) };
        assert_eq!(result, 0);
    });
}

/// The address of a function, as `sigaction` wants it.
trait Expose {
    fn expose(self) -> usize;
}

impl Expose for extern "C" fn(i32) {
    fn expose(self) -> usize {
        self as usize
    }
}

/// A second mapping of a vCPU's `struct kvm_run`, for other threads.
pub(crate) struct RunPage {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: The mapping belongs to the value and is accessed by atomics only.
unsafe impl Send for RunPage {}
// SAFETY: As above.
unsafe impl Sync for RunPage {}

impl RunPage {
    pub(crate) fn new(vm: &Vm, vcpu: &Vcpu) -> Self {
        let bytes = vm.kvm().get_vcpu_mmap_size().unwrap();
        Self::map(vcpu.fd().as_raw_fd(), bytes)
    }

    /// Maps a vCPU's file.
    pub(crate) fn map(fd: i32, bytes: usize) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "kvm_run cannot be mapped twice");
        Self {
            at: NonNull::new(at.cast()).unwrap(),
            bytes,
        }
    }

    /// The word at an offset of the mapping.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.bytes);
        // SAFETY: The word lies in the mapping.
        let at = unsafe { self.at.as_ptr().add(offset) };
        // SAFETY: Aligned, and otherwise as in `immediate_exit`.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// `kvm_run.exit_reason`.
    pub(crate) fn exit_reason(&self) -> u32 {
        self.word(ioctl_api::run::EXIT_REASON).load(SeqCst)
    }

    /// `kvm_run.immediate_exit`.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: The byte lies in the mapping, which lives as long as `self`;
        // the kernel and other threads access it as one byte too.
        unsafe { AtomicU8::from_ptr(self.at.as_ptr().add(ioctl_api::run::IMMEDIATE_EXIT)) }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

struct Shared {
    page: RunPage,
    stop: AtomicBool,
    thread: AtomicI32,
}

/// A running vCPU.
pub(crate) struct Runner {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<Vcpu>>,
}

impl Runner {
    /// Starts a vCPU on `cpu`, or on any; `on_exit` sees every exit except for
    /// interruptions, and errors of KVM_RUN.
    pub(crate) fn start(
        vm: &Vm,
        mut vcpu: Vcpu,
        cpu: Option<usize>,
        mut on_exit: impl FnMut(&mut Vcpu, Result<Exit>) -> Flow + Send + 'static,
    ) -> Self {
        install_kick();
        let shared = Arc::new(Shared {
            page: RunPage::new(vm, &vcpu),
            stop: AtomicBool::new(false),
            thread: AtomicI32::new(0),
        });
        let mine = shared.clone();
        let handle = std::thread::spawn(move || {
            if let Some(cpu) = cpu {
                host::pin(0, &[cpu]);
            }
            mine.thread.store(host::thread(), SeqCst);
            while !mine.stop.load(SeqCst) {
                let exit = vcpu.run();
                if matches!(exit, Ok(Exit::Interrupted)) {
                    continue;
                }
                if on_exit(&mut vcpu, exit) == Flow::Done {
                    break;
                }
            }
            vcpu
        });
        Self {
            shared,
            handle: Some(handle),
        }
    }

    /// The kernel's number of the vCPU's thread.
    pub(crate) fn thread(&self) -> i32 {
        host::wait_until("the vCPU's thread starts", || {
            self.shared.thread.load(SeqCst) != 0
        });
        self.shared.thread.load(SeqCst)
    }

    /// Waits until `condition`; fails at once if the vCPU's thread failed.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        host::wait_until(what, || {
            let over = self.is_over();
            let met = condition();
            assert!(met || !over, "the vCPU ended before: {what}");
            met
        });
    }

    pub(crate) fn is_over(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the vCPU and returns it.
    pub(crate) fn stop(mut self) -> Vcpu {
        self.kick();
        self.end()
    }

    /// Waits until the vCPU is done by itself.
    pub(crate) fn join(mut self) -> Vcpu {
        self.wait("the vCPU is done", || self.is_over());
        self.end()
    }

    fn end(&mut self) -> Vcpu {
        let vcpu = self.handle.take().unwrap().join().unwrap();
        self.shared.page.immediate_exit().store(0, SeqCst);
        vcpu
    }

    fn kick(&self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.page.immediate_exit().store(1, SeqCst);
        if !self.is_over() {
            signal(self.thread(), KICK);
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if self.handle.is_some() {
            self.kick();
            let _ = self.handle.take().map(JoinHandle::join);
        }
    }
}

/// Sends a signal to a thread of this process, which may be gone.
pub(crate) fn signal(thread: i32, signal: i32) {
    // SAFETY: tgkill checks its arguments.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}
