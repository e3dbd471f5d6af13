// SPDX-License-Identifier: GPL-2.0

//! Stores of each kind in all modes that have segments: the operand and address sizes, the
//! stacks and the formats of areas differ.

use super::{assert_same, denials, needs_both};
use crate::emulate::bus::Bus;
use crate::emulate::kinds::{Kind, WITH_SEGMENTS};
use crate::emulate::rig::Rig;
use crate::emulate::trace::{Exit, Trace};
use crate::harness::{tests, Lab};
use crate::machine::{self, Assembled, Stop};
use guest::asm::*;

tests![allowed, denied, over_sub_pages];

type Emit = fn(&mut CodeAssembler) -> Assembled;

/// A page below 64 KiB, and the sub-page of it that is written, the third.
const LOW: u64 = 0x6000;
const AT: u64 = LOW + 0x100;

/// For SSE, which programs in real mode are not made ready for.
const CR4_OSFXSR: u64 = 1 << 9;

/// Stores, one instruction each. The stack is in the sub-page too.
const STORES: [Emit; 31] = [
    |a| a.mov(byte_ptr(AT), al),
    |a| a.mov(word_ptr(AT + 1), ax),
    |a| a.mov(dword_ptr(AT + 3), eax),
    |a| a.mov(word_ptr(AT + 9), 0x1357),
    |a| a.mov(word_ptr(AT + 12), ds),
    |a| a.xchg(word_ptr(AT + 14), ax),
    |a| a.xchg(dword_ptr(AT + 16), ebp),
    |a| a.lock().add(dword_ptr(AT + 20), eax),
    |a| a.adc(word_ptr(AT + 24), ax),
    |a| a.inc(byte_ptr(AT + 26)),
    |a| a.neg(dword_ptr(AT + 27)),
    |a| a.shl(word_ptr(AT + 32), 3),
    |a| a.bts(dword_ptr(AT + 34), 5),
    |a| a.setc(byte_ptr(AT + 38)),
    |a| a.lock().cmpxchg(word_ptr(AT + 40), cx),
    |a| a.cmpxchg8b(qword_ptr(AT + 42)),
    |a| a.xadd(word_ptr(AT + 50), dx),
    |a| a.movsb(),
    |a| a.movsd(),
    |a| a.rep().stosw(),
    |a| a.push(ax),
    |a| a.push(eax),
    |a| a.push(ds),
    |a| a.pushf(),
    |a| a.pusha(),
    |a| a.enter(8, 1),
    |a| a.movups(xmmword_ptr(AT + 0x10), xmm3),
    |a| a.sidt(ptr(AT + 0x20)),
    // These are stepped.
    |a| a.fnstcw(word_ptr(AT + 0x29)),
    |a| a.fnstenv(ptr(AT + 2)),
    |a| a.fnsave(ptr(AT)),
];

/// A near CALL, and a POP from one place to another.
fn stores(a: &mut CodeAssembler) -> Assembled {
    for emit in STORES {
        emit(a)?;
    }
    let mut next = a.create_label();
    a.call(next)?;
    a.set_label(&mut next)?;
    a.pop(word_ptr(AT + 0x30))?;
    a.hlt()
}

const HOW_MANY: usize = STORES.len() + 2;

/// Executes `author`'s instructions with both backends, and a map for the page.
fn run(lab: &Lab, kind: Kind, map: u32, author: fn(&mut CodeAssembler) -> Assembled) -> Trace {
    let trace = assert_same(lab, &format!("{kind:?}"), |lab| {
        let machine = kind.load(machine::spp_vm(lab), kind.program(author));
        machine.vm.set_maps(LOW, &[map]).expect("maps");
        let mut sregs = machine.sregs();
        sregs.cr4 |= CR4_OSFXSR;
        machine.set_sregs(&sregs);
        machine.change_regs(|r| {
            (r.rax, r.rcx, r.rdx) = (0x1234_5678, 5, 0x9abc_def0);
            (r.rbp, r.rsp) = (AT + 0x78, AT + 0x80);
            (r.rsi, r.rdi) = (LOW + 0x40, AT + 0x38);
        });
        let rig = Rig {
            machine,
            bus: Bus::new(),
        };
        rig.set_vectors();
        rig
    });
    let event = |exit: &Exit| matches!(exit, Exit::Stop(Stop::Event(_)));
    let events = trace.exits.iter().filter(|(exit, _)| event(exit)).count();
    assert_eq!(events, 0, "{kind:?}");
    let last = trace.exits.last().map(|(exit, _)| exit);
    assert_eq!(last, Some(&Exit::Stop(kind.end())), "{kind:?}");
    trace
}

/// All else of the page is denied.
fn allowed(lab: &Lab) {
    needs_both(lab);
    for kind in WITH_SEGMENTS {
        let trace = run(lab, kind, 4, stores);
        assert_eq!(denials(&trace), 0, "{kind:?}");
    }
}

fn denied(lab: &Lab) {
    needs_both(lab);
    for kind in WITH_SEGMENTS {
        let trace = run(lab, kind, !4, stores);
        assert_eq!(denials(&trace), HOW_MANY, "{kind:?}");
    }
}

/// Over the begin of the sub-page.
fn border_stores(a: &mut CodeAssembler) -> Assembled {
    a.mov(dword_ptr(AT - 1), eax)?;
    a.lock().add(word_ptr(AT - 1), ax)?;
    a.xchg(dword_ptr(AT - 2), ebp)?;
    a.movups(xmmword_ptr(AT - 9), xmm3)?;
    a.mov(sp, (AT + 1) as i32)?;
    a.push(ax)?;
    a.mov(sp, (AT + 2) as i32)?;
    a.push(eax)?;
    a.mov(di, (AT - 3) as i32)?;
    a.stosd()?;
    a.fnstcw(word_ptr(AT - 1))?;
    a.hlt()
}

fn over_sub_pages(lab: &Lab) {
    super::needs_whole_checks(lab);
    for kind in WITH_SEGMENTS {
        for (map, count) in [(6, 0), (!2, 8), (!4, 8)] {
            let trace = run(lab, kind, map, border_stores);
            assert_eq!(denials(&trace), count, "{kind:?}, {map:#x}");
        }
    }
}
