// SPDX-License-Identifier: GPL-2.0

//! Bits of the VMX control fields and of the EPT and VPID capabilities.

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (SDM 3C 25.6.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pin: u32 {
        /// Host interrupts leave the guest.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// Host NMIs leave the guest.
        const NMI_EXITING = 1 << 3;
        /// NMI blocking of the guest is virtual.
        const VIRTUAL_NMIS = 1 << 5;
    }
}

bitflags! {
    /// Primary processor-based VM-execution controls (SDM 3C 25.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Proc: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// RDTSC adds the TSC offset.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits: the guest must not read host counters.
        const RDPMC_EXITING = 1 << 11;
        /// MOV to CR8 exits: there is no virtual TPR.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV to and from debug registers exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every port access exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// Exit after one instruction.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// The MSR bitmap decides which RDMSR and WRMSR exit.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// The secondary controls are in force.
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
    }
}

bitflags! {
    /// Secondary processor-based VM-execution controls (SDM 3C 25.6.2, table 25-7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Proc2: u32 {
        /// Guest-physical addresses go through EPT.
        const ENABLE_EPT = 1 << 1;
        /// RDTSCP and RDPID do not fault.
        const ENABLE_RDTSCP = 1 << 3;
        /// Linear mappings are tagged by VPID.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD_EXITING = 1 << 6;
        /// CR0.PE and CR0.PG may be 0 in the guest.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// INVPCID does not fault.
        const ENABLE_INVPCID = 1 << 12;
        /// ENCLS exits as its bitmap says.
        const ENCLS_EXITING = 1 << 15;
        /// Writes to read-only 4-KByte pages may consult sub-page permissions.
        const SUB_PAGE_WRITE_PERMISSIONS = 1 << 23;
    }
}

bitflags! {
    /// VM-exit controls (SDM 3C 25.7.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitCtls: u32 {
        /// DR7 and IA32_DEBUGCTL of the guest are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL of the host is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// IA32_PAT of the guest is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT of the host is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER of the guest is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER of the host is loaded.
        const LOAD_EFER = 1 << 21;
    }
}

bitflags! {
    /// VM-entry controls (SDM 3C 25.8.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryCtls: u32 {
        /// DR7 and IA32_DEBUGCTL of the guest are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest runs in IA-32e mode.
        const IA32E_MODE_GUEST = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL of the guest is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// IA32_PAT of the guest is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER of the guest is loaded.
        const LOAD_EFER = 1 << 15;
    }
}

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptVpid: u64 {
        /// EPT page walks of four levels.
        const WALK_4 = 1 << 6;
        /// EPT paging structures may be write-back.
        const WRITE_BACK = 1 << 14;
        /// 2-MByte leaves.
        const LEAF_2M = 1 << 16;
        /// 1-GByte leaves.
        const LEAF_1G = 1 << 17;
        /// INVEPT exists.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags for EPT.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one EPTP.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of everything.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID exists.
        const INVVPID = 1 << 32;
        /// INVVPID of one VPID.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID of everything.
        const INVVPID_ALL = 1 << 42;
    }
}
