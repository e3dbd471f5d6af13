// SPDX-License-Identifier: GPL-2.0

//! Signals at any moment of a run: none is lost, and no guest state is.

use crate::host;
use crate::ktap::{Env, Test, Verdict};
use crate::load::{self, Hasher};
use crate::runner::{install_kick, signal, RunPage, KICK};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use vmm::{Exit, Vcpu, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new(
        "signals: a timer's during 200000 exits change nothing",
        timer,
    )
    .vmxon(),
    Test::new(
        "signals: 300 kicks with immediate_exit, none is lost",
        kicks,
    )
    .vmxon(),
    Test::new(
        "signals: 300 kicks with a signal mask, none is lost",
        masked_kicks,
    ),
    Test::new(
        "signals: a spinning guest without interrupts is stopped",
        spinning,
    ),
];

/// A periodic signal to one thread.
struct Timer(libc::timer_t);

impl Timer {
    fn start(period: Duration) -> Self {
        install_kick();
        // SAFETY: All zeroes are a valid event.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = KICK;
        event.sigev_notify_thread_id = host::thread();
        let mut timer = std::ptr::null_mut();
        // SAFETY: Both pointers are to locals.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        assert_eq!(result, 0);
        let every = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(period.subsec_nanos()),
        };
        let times = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: The timer exists and `times` is a local.
        let result = unsafe { libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) };
        assert_eq!(result, 0);
        Self(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: The timer exists until here.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// The guest exits for each CPUID, and now and then the host's signal falls
/// between any two of its instructions.
fn timer(env: &Env) -> Verdict {
    let vm = env.vm();
    let leaf = load::max_leaf(&vm);
    let hasher = Hasher {
        seed: 99,
        rounds: 20_000,
        cpuid: true,
    };
    let mut vcpu = load::boot(&vm, 0, &hasher.program(0));
    let timer = Timer::start(Duration::from_micros(300));
    let (mut halts, mut interrupted) = (0, 0);
    while halts < 10 {
        match vcpu.run().unwrap() {
            Exit::Hlt => halts += 1,
            Exit::Interrupted => interrupted += 1,
            other => panic!("{other:?}"),
        }
    }
    drop(timer);
    println!("# interrupted {interrupted} times");
    assert!(interrupted > 20, "the timer interrupts nothing");
    assert_eq!(vcpu.regs().unwrap().r8, hasher.value(leaf, halts));
    Ok(())
}

/// A guest that never exits by itself, with RFLAGS.IF = 0.
fn spin(vm: &Vm) -> Vcpu {
    load::boot(vm, 0, &load::counters(0, &[]))
}

fn spinning(env: &Env) -> Verdict {
    let vm = env.vm();
    let mut vcpu = spin(&vm);
    let timer = Timer::start(Duration::from_millis(2));
    for _ in 0..5 {
        assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    }
    drop(timer);
    assert_eq!(vcpu.regs().unwrap().rflags & (1 << 9), 0);
    Ok(())
}

const KICKS: u64 = 300;

/// What the kicked thread tells, and is told.
#[derive(Default)]
struct Board {
    thread: AtomicI32,
    /// KVM_RUN calls that ended by a kick.
    taken: AtomicU64,
    over: AtomicBool,
}

/// Ends the kicked thread after a failure: it would run for ever.
struct Rescue<'a>(&'a Board);

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.over.store(true, SeqCst);
            self.0.taken.store(KICKS, SeqCst);
            signal(self.0.thread.load(SeqCst), KICK);
        }
    }
}

/// Kicks the vCPU's thread, and waits until each kick has ended one KVM_RUN.
/// Between two kicks there is now and then time to enter the guest.
fn kick_all(board: &Board, kick: impl Fn(i32)) {
    host::wait_until("the vCPU's thread starts", || {
        board.thread.load(SeqCst) != 0
    });
    let _rescue = Rescue(board);
    for number in 1..=KICKS {
        for _ in 0..number % 40 * 50 {
            std::hint::spin_loop();
        }
        board.over.store(number == KICKS, SeqCst);
        kick(board.thread.load(SeqCst));
        host::wait_until("a kick ends KVM_RUN", || board.taken.load(SeqCst) == number);
    }
}

/// Takes some time before KVM_RUN, so that some kicks come outside of it.
fn stay_outside(board: &Board) {
    for _ in 0..board.taken.load(SeqCst) * 7919 % 3000 {
        std::hint::spin_loop();
    }
}

fn last_cpu() -> usize {
    host::cpus() - 1
}

fn kicks(env: &Env) -> Verdict {
    install_kick();
    let vm = env.vm();
    let mut vcpu = spin(&vm);
    let page = RunPage::new(&vm, &vcpu);
    let board = Board::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            host::pin(0, &[0]);
            board.thread.store(host::thread(), SeqCst);
            while !board.over.load(SeqCst) || board.taken.load(SeqCst) < KICKS {
                stay_outside(&board);
                match vcpu.run() {
                    Ok(Exit::Interrupted) => {}
                    other => panic!("{other:?}"),
                }
                // A signal alone is the second half of a kick that was taken.
                if page.immediate_exit().swap(0, SeqCst) != 0 {
                    board.taken.fetch_add(1, SeqCst);
                }
            }
        });
        let _here = host::Pinned::here(last_cpu());
        kick_all(&board, |thread| {
            page.immediate_exit().store(1, SeqCst);
            signal(thread, KICK);
        });
    });
    Ok(())
}

/// The set with `KICK` alone.
fn kick_set() -> libc::sigset_t {
    // SAFETY: All zeroes are a valid set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: The set is a local.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: The set is a local.
    unsafe { libc::sigaddset(&mut set, KICK) };
    set
}

/// The signal is blocked but for KVM_RUN, so it stays pending until a KVM_RUN
/// sees it; there is nothing else to tell it by.
fn masked_kicks(env: &Env) -> Verdict {
    install_kick();
    let vm = env.vm();
    let mut vcpu = spin(&vm);
    let board = Board::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            host::pin(0, &[0]);
            let set = kick_set();
            // SAFETY: The set is a local.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
            set_signal_mask(&vcpu, 0);
            board.thread.store(host::thread(), SeqCst);
            while !board.over.load(SeqCst) || board.taken.load(SeqCst) < KICKS {
                stay_outside(&board);
                assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
                let none = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                // SAFETY: Both pointers are to locals.
                let got = unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &none) };
                assert_eq!(got, KICK, "KVM_RUN ended without the signal");
                board.taken.fetch_add(1, SeqCst);
            }
        });
        let _here = host::Pinned::here(last_cpu());
        kick_all(&board, |thread| signal(thread, KICK));
    });
    Ok(())
}

/// KVM_SET_SIGNAL_MASK: what is blocked during KVM_RUN.
fn set_signal_mask(vcpu: &Vcpu, blocked: u64) {
    use std::os::fd::AsRawFd;
    #[repr(C, packed)]
    struct Mask {
        len: u32,
        set: u64,
    }
    let mask = Mask {
        len: 8,
        set: blocked,
    };
    let code = ioctl_api::number::KVM_SET_SIGNAL_MASK.into();
    // SAFETY: The kernel reads the 12 bytes of `mask`.
    let result = unsafe { libc::ioctl(vcpu.fd().as_raw_fd(), code, &mask) };
    assert_eq!(result, 0);
}
