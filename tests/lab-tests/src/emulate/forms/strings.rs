// SPDX-License-Identifier: GPL-2.0

//! String instructions, with one or both operands at RBX.

use super::{bytes, form, Form};
use guest::asm::*;

const SIZES: [u8; 4] = [1, 2, 4, 8];
const REP: u8 = 0xf3;
const REPNE: u8 = 0xf2;

/// `REX.W opcode`, with `66` or `REX.W` as `size` needs.
fn string(prefix: &[u8], size: u8, opcode: u8) -> Vec<u8> {
    let mut code = match size {
        2 => vec![0x66],
        _ => vec![],
    };
    code.extend(prefix);
    if size == 8 {
        code.push(0x48);
    }
    code.push(if size == 1 { opcode & !1 } else { opcode });
    code
}

/// What a string form does.
struct Strings {
    name: &'static str,
    prefix: &'static [u8],
    opcode: u8,
    /// Instructions that point RSI and RDI to their places.
    setup: &'static [u8],
    /// The accesses of one element to the operand: `r`, `w`, or both.
    does: &'static str,
    /// How many elements.
    count: u8,
}

/// `mov rdi, rbx`.
const DI: &[u8] = &[0x48, 0x89, 0xdf];
/// `mov rsi, rbx`.
const SI: &[u8] = &[0x48, 0x89, 0xde];
/// `mov rsi, rbx; lea rdi, [rbx + 64]`.
const SI_DI: &[u8] = &[0x48, 0x89, 0xde, 0x48, 0x8d, 0x7b, 0x40];

impl Strings {
    fn of(&self, size: u8) -> Form {
        let mut code = self.setup.to_vec();
        code.extend(string(self.prefix, size, self.opcode));
        let element = |n: u8| {
            let at = u32::from(n) * u32::from(size);
            let behind = |place: char| if place == 'b' { at + 64 } else { at };
            let access = |does: &str| {
                let (kind, place) = (&does[..1], does.chars().nth(1).unwrap_or('a'));
                format!("{kind}{size}+{} ", behind(place))
            };
            self.does.split_whitespace().map(access).collect::<String>()
        };
        let accesses: String = (0..self.count).map(element).collect();
        let name = format!("{} {}", self.name, u32::from(size) * 8);
        bytes(&name, &accesses, code)
    }
}

pub(super) fn all() -> Vec<Form> {
    let row = |name, prefix, opcode, setup, does, count| Strings {
        name,
        prefix,
        opcode,
        setup,
        does,
        count,
    };
    // RCX is 3. `b` is 64 bytes behind RBX.
    let rows = [
        row("stos", &[], 0xab, DI, "w", 1),
        row("rep stos", &[REP], 0xab, DI, "w", 3),
        row("lods", &[], 0xad, SI, "r", 1),
        row("rep lods", &[REP], 0xad, SI, "r", 3),
        row("movs to ram", &[], 0xa5, SI, "r", 1),
        row("movs from ram", &[], 0xa5, DI, "w", 1),
        row("movs in it", &[], 0xa5, SI_DI, "r wb", 1),
        row("rep movs to ram", &[REP], 0xa5, SI, "r", 3),
        row("rep movs from ram", &[REP], 0xa5, DI, "w", 3),
        row("rep movs in it", &[REP], 0xa5, SI_DI, "r wb", 3),
        row("scas", &[], 0xaf, DI, "r", 1),
        row("repne scas", &[REPNE], 0xaf, DI, "r", 3),
        row("repe scas", &[REP], 0xaf, DI, "r", 1),
        row("cmps with ram", &[], 0xa7, SI, "r", 1),
        row("cmps ram with it", &[], 0xa7, DI, "r", 1),
        row("cmps in it", &[], 0xa7, SI_DI, "r rb", 1),
        row("repne cmps", &[REPNE], 0xa7, SI_DI, "r rb", 3),
        row("repe cmps", &[REP], 0xa7, SI_DI, "r rb", 1),
    ];
    let mut forms: Vec<Form> = rows
        .iter()
        .flat_map(|row| SIZES.map(|size| row.of(size)))
        .collect();
    forms.extend(others());
    forms
}

/// Directions, address sizes, and counts of 0.
fn others() -> Vec<Form> {
    vec![
        form("std; rep stosw", "w2+4 w2+2 w2", |a| {
            a.std()?;
            a.lea(rdi, qword_ptr(rbx + 4))?;
            a.rep().stosw()?;
            a.cld()
        }),
        form("std; rep movsd to ram", "r4+8 r4+4 r4", |a| {
            a.std()?;
            a.lea(rsi, qword_ptr(rbx + 8))?;
            a.rep().movsd()?;
            a.cld()
        }),
        form("std; lodsq", "r8", |a| {
            a.std()?;
            a.mov(rsi, rbx)?;
            a.lodsq()?;
            a.cld()
        }),
        form("rep stosb of none", "", |a| {
            a.mov(rdi, rbx)?;
            a.xor(ecx, ecx)?;
            a.rep().stosb()
        }),
        form("repne scasb of none", "", |a| {
            a.mov(rdi, rbx)?;
            a.xor(ecx, ecx)?;
            a.repne().scasb()
        }),
        form("a32 rep stosb", "w1 w1+1 w1+2", |a| {
            a.mov(rdi, rbx)?;
            a.mov(rcx, 0x5_0000_0003_u64)?;
            a.db(&[0x67, 0xf3, 0xaa])
        }),
        form("a32 movsq", "r8", |a| {
            a.mov(rsi, rbx)?;
            a.db(&[0x67, 0x48, 0xa5])
        }),
        form("repe cmpsb all equal", "r1 r1+1 r1+2", |a| {
            a.mov(rsi, rbx)?;
            a.mov(dword_ptr(rdi), 0x4444_4444)?;
            a.repe().cmpsb()
        })
        .operand(&[0x4444_4444_4444_4444]),
        form("repne scasb finds", "r1 r1+1", |a| {
            a.mov(rdi, rbx)?;
            a.mov(al, 0x45)?;
            a.repne().scasb()
        })
        .operand(&[0x4746_4544]),
        form("movs in it, overlapping", "r8 w8+4", |a| {
            a.mov(rsi, rbx)?;
            a.lea(rdi, qword_ptr(rbx + 4))?;
            a.movsq()
        }),
        form("fs lodsd", "r4", |a| {
            a.mov(rsi, rbx)?;
            a.db(&[0x64, 0xad])
        }),
    ]
}
