// SPDX-License-Identifier: GPL-2.0

//! What keeps a mistake of the tests from doing harm: signals that end a run, and limits
//! for the process.

use std::io::Error;

/// Exit status of a process whose harness has faulted.
pub const BROKEN: i32 = 99;

/// Bytes of the stack for signals, which takes all vector state.
const STACK: usize = 0x2_0000;

/// Sends the signals of exceptions to `handler`, on a stack of their own: the stack
/// pointer of an instruction under test may be anything.
pub(super) fn handle_signals(handler: unsafe extern "C" fn()) -> Result<(), String> {
    let stack: &'static mut [u8] = Box::leak(vec![0; STACK].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: STACK,
    };
    // SAFETY: the stack lives as long as the process and nobody else uses it.
    if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
        return Err(format!("sigaltstack: {}", Error::last_os_error()));
    }
    let signals = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
    ];
    for signal in signals {
        // SAFETY: all zeroes are a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the form that SA_SIGINFO wants, and uses no more than
        // its stack and the mapping at STATE.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(format!("sigaction: {}", Error::last_os_error()));
        }
    }
    Ok(())
}

/// Gives up all that the process does not need: it can write to what is open, and have
/// memory that is not executable. Any other system call kills it.
///
/// # Errors
///
/// What the system did not let it give up.
pub fn confine(cpu_seconds: u64) -> Result<(), String> {
    limit(libc::RLIMIT_CORE, 0)?;
    limit(libc::RLIMIT_CPU, cpu_seconds)?;
    limit(libc::RLIMIT_AS, 4 << 30)?;
    limit(libc::RLIMIT_FSIZE, 1 << 26)?;
    filter_system_calls()
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), String> {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: passes a structure of the type that is wanted.
    match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(()),
        _ => Err(format!("setrlimit: {}", Error::last_os_error())),
    }
}

const ALLOWED: [i64; 12] = [
    libc::SYS_rt_sigreturn,
    libc::SYS_write,
    libc::SYS_exit_group,
    libc::SYS_exit,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
];

/// `AUDIT_ARCH_X86_64`: 64-bit, little-endian, EM_X86_64.
const ARCH: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const DATA_NUMBER: u32 = 0;
const DATA_ARCH: u32 = 4;
/// The low half of the third argument: of mmap, the protection.
const DATA_ARGUMENT_2: u32 = 32;

fn filter_system_calls() -> Result<(), String> {
    let program = program();
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: takes no pointers.
    let first = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel copies the program, which lives until the call returns.
    let second = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    match (first, second) {
        (0, 0) => Ok(()),
        _ => Err(format!("seccomp: {}", Error::last_os_error())),
    }
}

/// The filter: architecture, then no executable memory, then the allowed numbers.
fn program() -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let branch = |kind: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | kind | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let kill = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);

    let mut program = vec![
        load(DATA_ARCH),
        branch(libc::BPF_JEQ, ARCH, 1, 0),
        kill,
        load(DATA_NUMBER),
        branch(libc::BPF_JEQ, libc::SYS_mmap as u32, 0, 3),
        load(DATA_ARGUMENT_2),
        branch(libc::BPF_JSET, libc::PROT_EXEC as u32, 0, 1),
        kill,
        load(DATA_NUMBER),
    ];
    for number in ALLOWED {
        program.push(branch(libc::BPF_JEQ, number as u32, 0, 1));
        program.push(allow);
    }
    program.push(kill);
    program
}
