// SPDX-License-Identifier: GPL-2.0

//! Signals that arrive while the guest runs. The guest spins with interrupts
//! off, so that nothing but the signal can stop it.

use crate::harness::{tests, Lab};
use crate::machine::{Machine, Stop};
use crate::raw;
use guest::asm::*;
use guest::SCRATCH;
use ioctl_api::number::KVM_SET_SIGNAL_MASK;
use ioctl_api::run;
use ioctl_api::vcpu::{SignalMask, SIGSET_SIZE};
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

tests![
    signal_interrupts_the_guest,
    pending_signal_comes_first,
    signal_mask_lets_a_signal_in,
    signal_mask_keeps_a_signal_out,
];

const SIGNAL: libc::c_int = libc::SIGUSR1;
/// Counts up while the guest spins.
const COUNTER: u64 = SCRATCH;
/// The guest halts when this is not 0.
const STOP: u64 = SCRATCH + 64;

/// How often the handler ran.
static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Installs the handler and forgets earlier signals.
fn prepare() {
    // SAFETY: all-zero is a valid `sigaction`, the handler only counts, and
    // both pointers are valid or null.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut());
    }
    HANDLED.store(0, Ordering::Relaxed);
}

/// Blocks the signal for this thread until dropped.
struct Blocked;

impl Blocked {
    fn new() -> Self {
        change_mask(libc::SIG_BLOCK);
        Self
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        change_mask(libc::SIG_UNBLOCK);
    }
}

fn change_mask(how: libc::c_int) {
    // SAFETY: the set is initialised before it is used; the old mask is not
    // asked for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// A thread that can get a signal.
#[derive(Clone, Copy)]
struct Thread(libc::pthread_t);

impl Thread {
    fn current() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    fn signal(self) {
        // SAFETY: the thread joins the sender, so it still exists.
        assert_eq!(unsafe { libc::pthread_kill(self.0, SIGNAL) }, 0);
    }
}

fn spinner(lab: &Lab) -> Machine {
    Machine::long(lab, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(qword_ptr(COUNTER))?;
        a.cmp(qword_ptr(STOP), 0)?;
        a.je(again)?;
        a.hlt()
    })
}

/// Waits, in another thread, until the guest has counted on from where it is.
fn wait_for_progress(memory: &GuestMemoryMmap) {
    let count = || {
        memory
            .read_obj::<u64>(GuestAddress(COUNTER))
            .expect("guest memory")
    };
    let start = count();
    while count() < start + 10 {
        std::thread::yield_now();
    }
}

fn signal_interrupts_the_guest(lab: &Lab) {
    prepare();
    let mut machine = spinner(lab);
    let vcpu = Thread::current();
    for round in 1..=5 {
        let memory = machine.vm.memory().clone();
        let sender = std::thread::spawn(move || {
            wait_for_progress(&memory);
            vcpu.signal();
        });
        assert_eq!(machine.run(), Stop::Error(libc::EINTR));
        let reason = machine.cpu.fd_mut().get_kvm_run().exit_reason;
        assert_eq!(reason, run::KVM_EXIT_INTR);
        sender.join().expect("the sender");
        assert_eq!(HANDLED.load(Ordering::Relaxed), round);
    }
    machine.set_qword(STOP, 1);
    machine.expect_hlt();
}

/// With a signal pending the guest executes nothing.
fn pending_signal_comes_first(lab: &Lab) {
    prepare();
    let mut machine = spinner(lab);
    machine.set_qword(STOP, 1);
    set_signal_mask(&machine, Some(0));
    let blocked = Blocked::new();
    Thread::current().signal();
    for _ in 0..3 {
        assert_eq!(machine.run(), Stop::Error(libc::EINTR));
    }
    assert_eq!(machine.qword(COUNTER), 0);
    assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "still pending");
    drop(blocked);
    assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
}

/// `struct kvm_signal_mask` and a signal set.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Mask {
    head: SignalMask,
    set: u64,
}

fn set_signal_mask(machine: &Machine, set: Option<u64>) {
    let fd = machine.cpu.fd();
    let result = match set {
        None => raw::number(fd, KVM_SET_SIGNAL_MASK, 0),
        Some(set) => {
            let head = SignalMask { len: SIGSET_SIZE };
            raw::with(fd, KVM_SET_SIGNAL_MASK, &mut Mask { head, set })
        }
    };
    assert_eq!(result, Ok(0));
}

/// The thread blocks the signal, the mask of KVM_RUN does not.
fn signal_mask_lets_a_signal_in(lab: &Lab) {
    prepare();
    let mut machine = spinner(lab);
    let blocked = Blocked::new();
    let vcpu = Thread::current();
    let memory = machine.vm.memory().clone();
    set_signal_mask(&machine, Some(0));
    let sender = std::thread::spawn(move || {
        wait_for_progress(&memory);
        vcpu.signal();
    });
    assert_eq!(machine.run(), Stop::Error(libc::EINTR));
    sender.join().expect("the sender");
    // Without the mask the pending signal does not stop the guest.
    set_signal_mask(&machine, None);
    machine.set_qword(STOP, 1);
    machine.expect_hlt();
    assert_eq!(HANDLED.load(Ordering::Relaxed), 0);
    drop(blocked);
    assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
}

/// The other way round: the guest goes on until it halts by itself.
fn signal_mask_keeps_a_signal_out(lab: &Lab) {
    prepare();
    let mut machine = spinner(lab);
    let vcpu = Thread::current();
    let memory = machine.vm.memory().clone();
    set_signal_mask(&machine, Some(1 << (SIGNAL - 1)));
    let sender = std::thread::spawn(move || {
        wait_for_progress(&memory);
        vcpu.signal();
        wait_for_progress(&memory);
        memory
            .write_obj(1_u64, GuestAddress(STOP))
            .expect("guest memory");
    });
    machine.expect_hlt();
    sender.join().expect("the sender");
    assert_eq!(HANDLED.load(Ordering::Relaxed), 1, "after KVM_RUN");
}
