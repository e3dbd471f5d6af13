// SPDX-License-Identifier: GPL-2.0

//! Runs tests and reports them as KTAP. A test fails by a panic; it is skipped
//! by [`Lab::skip`], which unwinds too.

use ioctl_api::subpage::{
    KVM_CAP_SPP, KVM_SPP_CAP_HW, KVM_SPP_CAP_SW, KVM_SPP_CAUSE_EMULATED, KVM_SPP_CAUSE_HARDWARE,
};
use kvm_ioctls::Kvm;
use std::cell::RefCell;
use std::ffi::CString;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};

/// Seconds after which a test that still runs is interrupted by a signal, ten times what the
/// longest one takes. In the lab they pass with the instructions that are executed, however
/// slow the host is.
const PATIENCE: libc::time_t = 10;

/// A test.
pub(crate) struct Test {
    /// Module path and name of the function.
    pub(crate) path: &'static str,
    /// The function.
    pub(crate) run: fn(&Lab),
}

impl Test {
    /// The name without that of this program.
    pub(crate) fn name(&self) -> &'static str {
        self.path
            .split_once("::")
            .map_or(self.path, |(_, rest)| rest)
    }
}

/// Declares the tests of a module.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::harness::Test] = &[$(crate::harness::Test {
            path: concat!(module_path!(), "::", stringify!($name)),
            run: $name,
        }),*];
    };
}
pub(crate) use tests;

/// Why a test does not apply here.
struct Skip(String);

thread_local! {
    /// What the panic hook was told since the test began.
    static DIAGNOSTICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Who checks the sub-page maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The processor.
    Hardware,
    /// The module.
    Software,
}

impl Backend {
    /// The `KVM_SPP_CAP_*` that stands for it.
    pub(crate) fn cap(self) -> u32 {
        match self {
            Self::Hardware => KVM_SPP_CAP_HW,
            Self::Software => KVM_SPP_CAP_SW,
        }
    }
}

/// The device under test.
pub(crate) struct Lab {
    device: String,
    backend: Option<Backend>,
}

impl Lab {
    /// Tests the device at `device`, with `backend` or the best that it has.
    pub(crate) fn new(device: String, backend: Option<Backend>) -> Self {
        Self { device, backend }
    }

    /// Its path.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// It, opened.
    pub(crate) fn kvm(&self) -> Kvm {
        let path = CString::new(self.device.as_str()).expect("a path without NUL");
        Kvm::new_with_path(path).unwrap_or_else(|e| panic!("{}: {e}", self.device))
    }

    /// It is not the kernel's own KVM.
    pub(crate) fn is_ours(&self) -> bool {
        self.device != "/dev/kvm"
    }

    /// Ends the test without a verdict.
    pub(crate) fn skip(&self, why: &str) -> ! {
        panic::resume_unwind(Box::new(Skip(why.to_owned())))
    }

    /// Skips unless the device is ours, whose behaviour `why` differs from KVM's.
    pub(crate) fn only_ours(&self, why: &str) {
        if !self.is_ours() {
            self.skip(why);
        }
    }

    /// The mask that `KVM_CHECK_EXTENSION` gives for sub-page write permissions.
    pub(crate) fn spp_mask(&self) -> u32 {
        let mask = self.kvm().check_extension_raw(KVM_CAP_SPP.into());
        u32::try_from(mask).unwrap_or(0)
    }

    /// Skips unless the device has sub-page write permissions.
    pub(crate) fn needs_spp(&self) {
        if self.spp_mask() == 0 {
            self.skip("no sub-page write permissions");
        }
    }

    /// Skips unless the device has this backend too.
    pub(crate) fn needs_backend(&self, backend: Backend) {
        if self.spp_mask() & backend.cap() == 0 {
            self.skip(&format!("no {backend:?} backend"));
        }
    }

    /// Who checks the maps of a VM that [`enable_spp`](Self::enable_spp) is called for.
    pub(crate) fn backend(&self) -> Backend {
        self.backend
            .unwrap_or(match self.spp_mask() & KVM_SPP_CAP_HW {
                0 => Backend::Software,
                _ => Backend::Hardware,
            })
    }

    /// The cause of exits for writes that the guest's own instructions make to memory.
    pub(crate) fn cause(&self) -> u8 {
        match self.backend() {
            Backend::Hardware => KVM_SPP_CAUSE_HARDWARE,
            Backend::Software => KVM_SPP_CAUSE_EMULATED,
        }
    }

    /// Turns sub-page write permissions on, or skips.
    pub(crate) fn enable_spp(&self, vm: &vmm::Vm) {
        self.needs_spp();
        let backend = self.backend.map_or(0, |backend| {
            self.needs_backend(backend);
            backend.cap()
        });
        vm.enable_spp_with(backend).expect("KVM_CAP_SPP");
    }
}

/// Runs the tests and returns how many failed.
pub(crate) fn run(tests: &[&Test], lab: &Lab) -> usize {
    panic::set_hook(Box::new(|info| {
        DIAGNOSTICS
            .with_borrow_mut(|lines| lines.extend(info.to_string().lines().map(str::to_owned)));
    }));
    install_alarm();
    println!("KTAP version 1\n1..{}", tests.len());
    let mut failed = 0;
    for (test, number) in tests.iter().zip(1..) {
        set_alarm(PATIENCE);
        let result = panic::catch_unwind(AssertUnwindSafe(|| (test.run)(lab)));
        set_alarm(0);
        let diagnostics = DIAGNOSTICS.take();
        match result {
            Ok(()) => println!("ok {number} {}", test.name()),
            Err(payload) => match payload.downcast::<Skip>() {
                Ok(skip) => println!("ok {number} {} # SKIP {}", test.name(), skip.0),
                Err(_) => {
                    failed += 1;
                    for line in diagnostics {
                        println!("# {line}");
                    }
                    println!("not ok {number} {}", test.name());
                }
            },
        }
        // A lost line would be the one that matters if the machine dies now.
        let _ = std::io::stdout().flush();
    }
    println!("# {} tests, {failed} failed", tests.len());
    failed
}

/// The alarm has rung since the test began.
static LATE: AtomicBool = AtomicBool::new(false);

/// Fails a test that takes too long. `KVM_RUN` calls it when a signal has ended
/// it, so that no test takes the alarm for the signal it waits for.
pub(crate) fn check_time() {
    assert!(!LATE.load(Ordering::Relaxed), "not done in {PATIENCE} s");
}

extern "C" fn ring(_: libc::c_int) {
    LATE.store(true, Ordering::Relaxed);
}

/// Makes SIGALRM interrupt system calls.
fn install_alarm() {
    // SAFETY: all-zero is a valid `sigaction`, the handler sets a flag, and
    // both pointers are valid or null.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ring as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
    }
}

/// Sends SIGALRM after so many seconds and then each second, until one comes during a call;
/// 0 for never.
fn set_alarm(seconds: libc::time_t) {
    LATE.store(false, Ordering::Relaxed);
    let after = |tv_sec| libc::timeval { tv_sec, tv_usec: 0 };
    let timer = libc::itimerval {
        it_interval: after(1),
        it_value: after(seconds),
    };
    // SAFETY: `timer` is valid and the old value is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}
