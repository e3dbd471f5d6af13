// SPDX-License-Identifier: GPL-2.0

//! Register state, as `<linux/kvm.h>` and `<asm/kvm.h>` lay it out for x86.

/// Bytes of `struct kvm_xsave`, which is too large for a stack and is copied
/// as plain bytes in the format of CPUID leaf 0xD (KVM api.rst 4.42).
pub const XSAVE_SIZE: usize = 4096;

/// How many extended control registers [`Xcrs`] holds.
pub const KVM_MAX_XCRS: usize = 16;

/// CPUID entry flag: the answer depends on ECX ([`CpuidEntry2::index`]).
pub const KVM_CPUID_FLAG_SIGNIFCANT_INDEX: u32 = 1 << 0;

abi! {
    /// General registers (KVM api.rst 4.11).
    #[expect(missing_docs, reason = "the fields are named after the registers")]
    pub struct Regs: 144 {
        pub rax: u64,
        pub rbx: u64,
        pub rcx: u64,
        pub rdx: u64,
        pub rsi: u64,
        pub rdi: u64,
        pub rsp: u64,
        pub rbp: u64,
        pub r8: u64,
        pub r9: u64,
        pub r10: u64,
        pub r11: u64,
        pub r12: u64,
        pub r13: u64,
        pub r14: u64,
        pub r15: u64,
        pub rip: u64,
        pub rflags: u64,
    }

    /// A segment register with its cached descriptor (SDM 3A 3.4.5).
    pub struct Segment: 24 {
        /// Linear address of the first byte.
        pub base: u64,
        /// Offset of the last byte, in bytes whatever `g` says.
        pub limit: u32,
        /// What MOV from the segment register reads.
        pub selector: u16,
        /// Descriptor bits 43:40.
        pub type_: u8,
        /// Descriptor bit 47.
        pub present: u8,
        /// Descriptor bits 46:45.
        pub dpl: u8,
        /// Descriptor bit 54: 32-bit default size.
        pub db: u8,
        /// Descriptor bit 44: 1 for code and data.
        pub s: u8,
        /// Descriptor bit 53: 64-bit code.
        pub l: u8,
        /// Descriptor bit 55: the limit was given in pages.
        pub g: u8,
        /// Descriptor bit 52: free for software.
        pub avl: u8,
        /// 1 when a null selector was loaded.
        pub unusable: u8,
        /// Ignored, 0 when read.
        pub padding: u8,
    }

    /// GDTR or IDTR.
    pub struct Dtable: 16 {
        /// Linear address of the first byte.
        pub base: u64,
        /// Offset of the last byte.
        pub limit: u16,
        /// Ignored, 0 when read.
        pub padding: [u16; 3],
    }

    /// Special registers (KVM api.rst 4.13).
    #[expect(missing_docs, reason = "the fields are named after the registers")]
    pub struct Sregs: 312 {
        pub cs: Segment,
        pub ds: Segment,
        pub es: Segment,
        pub fs: Segment,
        pub gs: Segment,
        pub ss: Segment,
        pub tr: Segment,
        pub ldt: Segment,
        pub gdt: Dtable,
        pub idt: Dtable,
        pub cr0: u64,
        pub cr2: u64,
        pub cr3: u64,
        pub cr4: u64,
        pub cr8: u64,
        pub efer: u64,
        pub apic_base: u64,
        /// Bit `n` set: external interrupt `n` is queued; at most one is.
        pub interrupt_bitmap: [u64; 4],
    }

    /// x87 and SSE registers in their FXSAVE meaning (KVM api.rst 4.22).
    pub struct Fpu: 416 {
        /// ST0 to ST7, 10 bytes each.
        pub fpr: [[u8; 16]; 8],
        /// Control word.
        pub fcw: u16,
        /// Status word.
        pub fsw: u16,
        /// Abridged tag word: bit set, register in use.
        pub ftwx: u8,
        /// Ignored.
        pub pad1: u8,
        /// Opcode of the last x87 instruction.
        pub last_opcode: u16,
        /// Address of the last x87 instruction.
        pub last_ip: u64,
        /// Address of its operand.
        pub last_dp: u64,
        /// XMM0 to XMM15.
        pub xmm: [[u8; 16]; 16],
        /// SSE control and status.
        pub mxcsr: u32,
        /// Ignored.
        pub pad2: u32,
    }

    /// Debug registers (KVM api.rst 4.33).
    pub struct Debugregs: 128 {
        /// DR0 to DR3.
        pub db: [u64; 4],
        /// DR6.
        pub dr6: u64,
        /// DR7.
        pub dr7: u64,
        /// Must be 0.
        pub flags: u64,
        /// Ignored, 0 when read.
        pub reserved: [u64; 9],
    }

    /// One extended control register.
    pub struct Xcr: 16 {
        /// Its number; only XCR0 exists.
        pub xcr: u32,
        /// Ignored, 0 when read.
        pub reserved: u32,
        /// Its value.
        pub value: u64,
    }

    /// Extended control registers (KVM api.rst 4.44).
    pub struct Xcrs: 392 {
        /// How many of `xcrs` are valid.
        pub nr_xcrs: u32,
        /// Must be 0.
        pub flags: u32,
        /// The registers.
        pub xcrs: [Xcr; KVM_MAX_XCRS],
        /// Ignored, 0 when read.
        pub padding: [u64; 16],
    }

    /// One MSR and its value.
    pub struct MsrEntry: 16 {
        /// What RDMSR takes in ECX.
        pub index: u32,
        /// Ignored.
        pub reserved: u32,
        /// EDX:EAX.
        pub data: u64,
    }

    /// Head of `struct kvm_msrs`; [`MsrEntry`]s follow (KVM api.rst 4.18).
    pub struct Msrs: 8 {
        /// How many entries follow.
        pub nmsrs: u32,
        /// Ignored.
        pub pad: u32,
    }

    /// Head of `struct kvm_msr_list`; `u32` indices follow (KVM api.rst 4.3).
    pub struct MsrList: 4 {
        /// In: room for how many. Out: how many there are.
        pub nmsrs: u32,
    }

    /// What CPUID answers for one leaf (KVM api.rst 4.46).
    pub struct CpuidEntry2: 40 {
        /// EAX in.
        pub function: u32,
        /// ECX in, if the flags say that it matters.
        pub index: u32,
        /// [`KVM_CPUID_FLAG_SIGNIFCANT_INDEX`].
        pub flags: u32,
        /// EAX out.
        pub eax: u32,
        /// EBX out.
        pub ebx: u32,
        /// ECX out.
        pub ecx: u32,
        /// EDX out.
        pub edx: u32,
        /// Ignored, 0 when read.
        pub padding: [u32; 3],
    }

    /// Head of `struct kvm_cpuid2`; [`CpuidEntry2`]s follow.
    pub struct Cpuid2: 8 {
        /// In: how many entries, or room for how many. Out: how many.
        pub nent: u32,
        /// Ignored.
        pub padding: u32,
    }
}
