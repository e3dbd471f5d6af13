// SPDX-License-Identifier: GPL-2.0

//! The operations that the decoder tells apart, and what becomes of each: the one table
//! from which the code, its tests and Documentation/instructions.md are made.

use crate::insn::MemAccess;

/// What happens to an instruction that the processor cannot finish itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// [`exec`](crate::exec) does it.
    Emulated,
    /// The processor does it, one step on a private view of memory, if every sub-page
    /// that it touches is writable; user space gets it otherwise.
    SingleStep,
    /// User space gets it.
    Refused,
    /// It touches no memory, so that the guest is entered again to execute it.
    Reenter,
}

macro_rules! ops {
    ($($(#[$doc:meta])* $op:ident $name:literal $access:ident $policy:ident,)+) => {
        /// An operation.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Op {
            $(#[doc = $name] $(#[$doc])* $op,)+
        }

        impl Op {
            /// All operations, in the order of the documentation.
            pub const ALL: &'static [Op] = &[$(Op::$op,)+];

            /// The manual's name, in capitals.
            pub const fn name(self) -> &'static str {
                match self { $(Op::$op => $name,)+ }
            }

            /// What it does to an operand in memory.
            pub const fn access(self) -> MemAccess {
                match self { $(Op::$op => MemAccess::$access,)+ }
            }

            /// What becomes of it.
            pub const fn policy(self) -> Policy {
                match self { $(Op::$op => Policy::$policy,)+ }
            }
        }
    };
}

impl Op {
    /// What it does to memory that no operand names: the stack, and where a register points.
    pub const fn implied(self) -> MemAccess {
        match self {
            Self::Push
            | Self::PushSreg
            | Self::Pusha
            | Self::Pushf
            | Self::CallNear
            | Self::CallFar
            | Self::Int
            | Self::Movdir64b
            | Self::Enqcmd => MemAccess::Write,
            Self::Pop
            | Self::Popa
            | Self::Popf
            | Self::Leave
            | Self::RetNear
            | Self::RetFar
            | Self::Iret => MemAccess::Read,
            Self::Enter => MemAccess::ReadWrite,
            _ => MemAccess::None,
        }
    }

    /// In 64-bit mode it may need a selector, the limit of a segment, LDTR, TR, GDTR or IDTR:
    /// more than the attributes of CS and SS and the bases of FS and GS. INS and OUTS do if
    /// the CPL is above 0.
    pub const fn reads_tables(self) -> bool {
        !matches!(
            self,
            Self::Mov
                | Self::MovLoad
                | Self::Movzx
                | Self::Movsx
                | Self::Movsxd
                | Self::Movnti
                | Self::Movdiri
                | Self::MovbeLoad
                | Self::MovbeStore
                | Self::Xchg
                | Self::Xadd
                | Self::Cmpxchg
                | Self::Cmpxchg8b
                | Self::Cmpxchg16b
                | Self::Add
                | Self::Or
                | Self::Adc
                | Self::Sbb
                | Self::And
                | Self::Sub
                | Self::Xor
                | Self::Cmp
                | Self::Test
                | Self::Inc
                | Self::Dec
                | Self::Not
                | Self::Neg
                | Self::Bt
                | Self::Bts
                | Self::Btr
                | Self::Btc
                | Self::Movs
                | Self::Stos
                | Self::Lods
                | Self::Cmps
                | Self::Scas
                | Self::Ins
                | Self::Outs
                | Self::Push
                | Self::Pop
                | Self::VectorStore
                | Self::VectorLoad
                | Self::ScalarLoad
                | Self::ScalarStore
        )
    }

    /// The decoder tells operands and sizes, not just the length.
    pub const fn is_detailed(self) -> bool {
        !matches!(
            self,
            Self::Unknown | Self::NoMemory | Self::Scatter | Self::OtherRead | Self::OtherWrite
        )
    }
}

ops! {
    // Of valid length, but nothing more is known.
    #[default]
    Unknown "(any other)" None Refused,
    // Touches no memory of the guest as data and is not told apart.
    NoMemory "(register and control forms)" None Reenter,

    Mov "MOV" Write Emulated,
    MovLoad "MOV (load)" Read Emulated,
    Movzx "MOVZX" Read Emulated,
    Movsx "MOVSX" Read Emulated,
    Movsxd "MOVSXD" Read Emulated,
    Movnti "MOVNTI" Write Emulated,
    Movdiri "MOVDIRI" Write Emulated,
    Movdir64b "MOVDIR64B" Read Emulated,
    MovbeLoad "MOVBE (load)" Read Emulated,
    MovbeStore "MOVBE (store)" Write Emulated,
    MovFromSreg "MOV from segment register" Write Emulated,
    Xchg "XCHG" ReadWrite Emulated,
    Xadd "XADD" ReadWrite Emulated,
    Cmpxchg "CMPXCHG" ReadWrite Emulated,
    Cmpxchg8b "CMPXCHG8B" ReadWrite Emulated,
    Cmpxchg16b "CMPXCHG16B" ReadWrite Emulated,

    Add "ADD" ReadWrite Emulated,
    Or "OR" ReadWrite Emulated,
    Adc "ADC" ReadWrite Emulated,
    Sbb "SBB" ReadWrite Emulated,
    And "AND" ReadWrite Emulated,
    Sub "SUB" ReadWrite Emulated,
    Xor "XOR" ReadWrite Emulated,
    Cmp "CMP" Read Emulated,
    Test "TEST" Read Emulated,
    Inc "INC" ReadWrite Emulated,
    Dec "DEC" ReadWrite Emulated,
    Not "NOT" ReadWrite Emulated,
    Neg "NEG" ReadWrite Emulated,
    Mul "MUL" Read Emulated,
    Imul "IMUL (one operand)" Read Emulated,
    Imul2 "IMUL (two, three operands)" Read Emulated,
    Div "DIV" Read Emulated,
    Idiv "IDIV" Read Emulated,

    Rol "ROL" ReadWrite Emulated,
    Ror "ROR" ReadWrite Emulated,
    Rcl "RCL" ReadWrite Emulated,
    Rcr "RCR" ReadWrite Emulated,
    Shl "SHL" ReadWrite Emulated,
    Shr "SHR" ReadWrite Emulated,
    Sar "SAR" ReadWrite Emulated,
    Shld "SHLD" ReadWrite Emulated,
    Shrd "SHRD" ReadWrite Emulated,
    Bt "BT" Read Emulated,
    Bts "BTS" ReadWrite Emulated,
    Btr "BTR" ReadWrite Emulated,
    Btc "BTC" ReadWrite Emulated,
    Bsf "BSF" Read Emulated,
    Bsr "BSR" Read Emulated,
    Tzcnt "TZCNT" Read Emulated,
    Lzcnt "LZCNT" Read Emulated,
    Popcnt "POPCNT" Read Emulated,
    Setcc "SETcc" Write Emulated,
    Cmovcc "CMOVcc" Read Emulated,
    Crc32 "CRC32" Read Emulated,

    Movs "MOVS" ReadWrite Emulated,
    Stos "STOS" Write Emulated,
    Lods "LODS" Read Emulated,
    Cmps "CMPS" Read Emulated,
    Scas "SCAS" Read Emulated,
    Ins "INS" Write Emulated,
    Outs "OUTS" Read Emulated,

    Push "PUSH" Read Emulated,
    PushSreg "PUSH of a segment register" None Emulated,
    Pop "POP" Write Emulated,
    Pusha "PUSHA" None Emulated,
    Popa "POPA" None Emulated,
    Pushf "PUSHF" None Emulated,
    Enter "ENTER" None Emulated,
    Leave "LEAVE" None Emulated,
    CallNear "CALL (near)" Read Emulated,
    JmpNear "JMP (near)" Read Emulated,
    RetNear "RET (near)" None Emulated,
    CallFar "CALL (far)" Read Emulated,
    JmpFar "JMP (far)" Read Emulated,
    RetFar "RET (far)" None Emulated,

    Sgdt "SGDT" Write Emulated,
    Sidt "SIDT" Write Emulated,
    Sldt "SLDT" Write Emulated,
    Str "STR" Write Emulated,
    Smsw "SMSW" Write Emulated,
    Xlat "XLAT" Read Emulated,
    Flush "CLFLUSH, CLFLUSHOPT, CLWB" None Emulated,

    /// MOVUPS, MOVDQU, MOVNTPS and all others that copy a vector register to memory.
    VectorStore "MOVUPS, MOVAPS, MOVDQU, MOVDQA, MOVNTPS, MOVNTDQ and VEX forms (store)" Write Emulated,
    /// The same the other way.
    VectorLoad "MOVUPS, MOVAPS, MOVDQU, MOVDQA, MOVNTDQA, LDDQU and VEX forms (load)" Read Emulated,
    /// MOVD, MOVQ, MOVSS, MOVSD: the low 4 or 8 bytes, the rest of the register cleared.
    ScalarLoad "MOVD, MOVQ, MOVSS, MOVSD and VEX forms (load)" Read Emulated,
    /// The low bytes to memory; also MOVLPS and MOVLPD.
    ScalarStore "MOVD, MOVQ, MOVSS, MOVSD, MOVLPS, MOVLPD and VEX forms (store)" Write Emulated,
    /// MOVHPS, MOVHPD: bits 127:64.
    HighStore "MOVHPS, MOVHPD and VEX forms (store)" Write Emulated,
    /// MOVLPS, MOVLPD: bits 63:0, the rest kept (SSE) or from the second source (VEX).
    LowLoad "MOVLPS, MOVLPD and VEX forms (load)" Read Emulated,
    /// MOVHPS, MOVHPD.
    HighLoad "MOVHPS, MOVHPD and VEX forms (load)" Read Emulated,
    Maskmovdqu "MASKMOVDQU, VMASKMOVDQU" Write Emulated,
    Maskmovq "MASKMOVQ" Write SingleStep,
    VmaskmovStore "VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ (store)" Write Emulated,

    Fxsave "FXSAVE" Write SingleStep,
    Fnsave "FNSAVE" Write SingleStep,
    Fnstenv "FNSTENV" Write SingleStep,
    X87Store "x87 stores (FST, FSTP, FIST, FISTP, FISTTP, FBSTP, FNSTCW, FNSTSW)" Write SingleStep,
    MmxStore "MOVD, MOVQ, MOVNTQ from an MMX register" Write SingleStep,
    Stmxcsr "STMXCSR, VSTMXCSR" Write SingleStep,
    VectorExtract "PEXTR, EXTRACTPS, VEXTRACTF128, VEXTRACTI128, VCVTPS2PH (store)" Write SingleStep,
    Evex "EVEX stores" Write SingleStep,
    Kmov "KMOV (store)" Write SingleStep,

    Xsave "XSAVE, XSAVEOPT, XSAVEC, XSAVES" ReadWrite SingleStep,
    Scatter "VPSCATTER, VSCATTER" Write Refused,
    Amx "AMX (TILESTORED, STTILECFG)" Write Refused,
    Enqcmd "ENQCMD, ENQCMDS" None Refused,
    ShadowStack "shadow stacks (WRSS, WRUSS, SAVEPREVSSP, RSTORSSP, SETSSBSY, CLRSSBSY)" ReadWrite Refused,
    Bound "MPX (BNDMOV, BNDSTX)" Write Refused,
    Vmx "VMX (VMREAD, VMPTRST and others)" Write Refused,
    Int "INT n, INT3, INTO, INT1" None Refused,
    Iret "IRET, ERETS, ERETU, UIRET" None Refused,
    Popf "POPF" None Refused,
    LoadSreg "loads of segment registers (MOV, POP, LDS, LES, LFS, LGS, LSS)" Read Refused,
    SystemLoad "LGDT, LIDT, LLDT, LTR, LMSW" Read Refused,
    Arpl "ARPL" ReadWrite Refused,
    Rao "RAO-INT, CMPccXADD" ReadWrite Refused,
    KeyLocker "Key Locker" Read Refused,
    OtherRead "(any other that only reads memory)" Read Refused,
    OtherWrite "(any other that writes memory)" ReadWrite Refused,
}

#[cfg(test)]
#[path = "tests/op.rs"]
mod tests;
