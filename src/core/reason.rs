// SPDX-License-Identifier: GPL-2.0

//! Basic exit reasons (SDM 3D appendix C) that the code names.

macro_rules! reasons {
    ($($name:ident = $value:literal,)+) => {
        $(
            #[doc = concat!("Basic exit reason ", stringify!($value), ".")]
            pub const $name: u16 = $value;
        )+
    };
}

reasons! {
    EXCEPTION_OR_NMI = 0, EXTERNAL_INTERRUPT = 1, TRIPLE_FAULT = 2, INIT = 3, SIPI = 4,
    INTERRUPT_WINDOW = 7, NMI_WINDOW = 8, TASK_SWITCH = 9, CPUID = 10, GETSEC = 11,
    HLT = 12, INVD = 13, INVLPG = 14, RDPMC = 15, RDTSC = 16, VMCALL = 18, VMCLEAR = 19,
    VMXON = 27, CR_ACCESS = 28, DR_ACCESS = 29, IO = 30, RDMSR = 31, WRMSR = 32,
    ENTRY_GUEST_STATE = 33, ENTRY_MSR_LOADING = 34, MWAIT = 36, MTF = 37, MONITOR = 39,
    PAUSE = 40, ENTRY_MACHINE_CHECK = 41, GDTR_IDTR = 46, LDTR_TR = 47, EPT_VIOLATION = 48,
    EPT_MISCONFIG = 49, INVEPT = 50, RDTSCP = 51, PREEMPTION_TIMER = 52, INVVPID = 53,
    WBINVD = 54, XSETBV = 55, INVPCID = 58, VMFUNC = 59, ENCLS = 60, SPP = 66,
}
