// SPDX-License-Identifier: GPL-2.0

//! The model against tables written by hand, one test for each rule of the manual.

use model::oracle::{Access, Cpu, Outcome};
use model::ram::Ram;

const GPA: u64 = 0x12_3456_7000;
const PAGE: u64 = 0x5000_0000;
const ARMED: u64 = PAGE | 1 << 61 | 0x35;

/// Two trees of four tables each, with one path for `GPA`.
struct Tables {
    ram: Ram,
    ept: [u64; 4],
    sppt: [u64; 4],
}

impl Tables {
    fn new(leaf: u64, vector: u64) -> Self {
        let ram = Ram::default();
        let frames = || [0; 4].map(|_: u64| ram.frame().get());
        let (ept, sppt) = (frames(), frames());
        let tables = Self { ram, ept, sppt };
        for level in 0..3 {
            tables
                .ram
                .write(tables.ept_entry(level), ept[level + 1] | 7);
            tables
                .ram
                .write(tables.sppt_entry(level), sppt[level + 1] | 1);
        }
        tables.ram.write(tables.ept_entry(3), leaf);
        tables.ram.write(tables.sppt_entry(3), vector);
        tables
    }

    fn entry(table: u64, level: usize) -> u64 {
        table + (GPA >> (39 - 9 * level) & 0x1ff) * 8
    }

    fn ept_entry(&self, level: usize) -> u64 {
        Self::entry(self.ept[level], level)
    }

    fn sppt_entry(&self, level: usize) -> u64 {
        Self::entry(self.sppt[level], level)
    }

    fn cpu(&self) -> Cpu<'_> {
        Cpu::new(&self.ram, self.ept[0] | 0x1e, Some(self.sppt[0]), true)
    }

    fn write(&self, offset: u64, len: u64) -> Outcome {
        self.cpu().access(Access::Write, GPA + offset, len)
    }
}

const fn denied(gpa: u64) -> Outcome {
    Outcome::Violation(gpa, 0x1aa)
}

#[test]
fn even_bit_of_the_sub_page_allows() {
    for sub_page in 0..32 {
        let tables = Tables::new(ARMED, 1 << (2 * sub_page));
        for other in 0..32 {
            let gpa = GPA + other * 128 + 127;
            let expected = match other == sub_page {
                true => Outcome::Done(PAGE + other * 128 + 127),
                false => denied(gpa),
            };
            assert_eq!(tables.cpu().access(Access::Write, gpa, 1), expected);
        }
    }
}

#[test]
fn every_touched_sub_page_must_allow() {
    let tables = Tables::new(ARMED, 0b0101);
    assert_eq!(tables.write(120, 16), Outcome::Done(PAGE + 120));
    assert_eq!(tables.write(248, 8), Outcome::Done(PAGE + 248));
    assert_eq!(tables.write(248, 9), denied(GPA + 248));
    assert_eq!(tables.write(0, 4096), denied(GPA));
}

#[test]
fn absent_table_is_a_miss_and_reserved_bits_a_misconfiguration() {
    for level in 0..3 {
        let tables = Tables::new(ARMED, 0);
        tables
            .ram
            .write(tables.sppt_entry(level), 0xffff_ffff_ffff_fffe);
        assert_eq!(tables.write(0, 1), Outcome::SppEvent(GPA, 1 << 11));
        for bit in (1..12).chain(46..64) {
            let tables = Tables::new(ARMED, 0);
            let at = tables.sppt_entry(level);
            tables.ram.write(at, tables.ram.read(at) | 1 << bit);
            assert_eq!(tables.write(0, 1), Outcome::SppEvent(GPA, 0), "bit {bit}");
        }
    }
    for odd in (1..64).step_by(2) {
        let tables = Tables::new(ARMED, 0x5555_5555_5555_5555 | 1 << odd);
        assert_eq!(tables.write(0, 1), Outcome::SppEvent(GPA, 0), "bit {odd}");
    }
}

#[test]
fn a_zero_vector_is_a_denial() {
    assert_eq!(Tables::new(ARMED, 0).write(0, 1), denied(GPA));
}

#[test]
fn sppt_is_not_asked_when_ept_allows_or_bit_61_is_clear() {
    let writable = Tables::new(ARMED | 2, 0xaaaa);
    assert_eq!(writable.write(0, 1), Outcome::Done(PAGE));
    let plain = Tables::new(ARMED & !(1 << 61), 0xaaaa);
    assert_eq!(plain.write(0, 1), denied(GPA));
    let armed = Tables::new(ARMED, 0xaaaa);
    let off = Cpu::new(&armed.ram, armed.ept[0] | 0x1e, None, true).access(Access::Write, GPA, 1);
    assert_eq!(off, denied(GPA));
}

#[test]
fn upper_entries_that_refuse_writes_leave_it_to_the_sppt() {
    let tables = Tables::new(ARMED | 2, 1);
    tables.ram.write(tables.ept_entry(2), tables.ept[3] | 5);
    assert_eq!(tables.write(0, 1), Outcome::Done(PAGE));
    assert_eq!(tables.write(128, 1), denied(GPA + 128));
}

#[test]
fn large_leaves_are_never_eligible() {
    let tables = Tables::new(ARMED, 0x5555_5555_5555_5555);
    tables
        .ram
        .write(tables.ept_entry(2), 0x4000_0000 | 1 << 61 | 0xb5);
    assert_eq!(tables.write(0, 1), denied(GPA));
    let read = tables.cpu().access(Access::Read, GPA + 5, 1);
    assert_eq!(read, Outcome::Done(0x4000_0000 + GPA % 0x20_0000 + 5));
}

#[test]
fn guest_page_walks_are_never_eligible() {
    let tables = Tables::new(ARMED, 0x5555_5555_5555_5555);
    let flag = tables.cpu().access(Access::FlagUpdate, GPA, 8);
    assert_eq!(flag, Outcome::Violation(GPA, 0xaa));
    assert_eq!(
        tables.cpu().access(Access::Walk, GPA, 8),
        Outcome::Done(PAGE)
    );
    let mut with_flags = Cpu::new(
        &tables.ram,
        tables.ept[0] | 0x5e,
        Some(tables.sppt[0]),
        true,
    );
    assert_eq!(
        with_flags.access(Access::Walk, GPA, 8),
        Outcome::Violation(GPA, 0xab)
    );
}

#[test]
fn accessed_and_dirty_flags() {
    let tables = Tables::new(ARMED, 1);
    let leaf = || tables.ram.read(tables.ept_entry(3)) & 0x300;
    let mut cpu = Cpu::new(
        &tables.ram,
        tables.ept[0] | 0x5e,
        Some(tables.sppt[0]),
        true,
    );
    cpu.access(Access::Write, GPA + 128, 1);
    assert_eq!(leaf(), 0, "a denied write leaves no trace");
    cpu.access(Access::Read, GPA, 1);
    assert_eq!(leaf(), 0x100);
    cpu.access(Access::Write, GPA, 1);
    assert_eq!(leaf(), 0x300);
}

#[test]
fn a_write_across_pages_needs_both_and_may_be_ineligible() {
    let tables = Tables::new(ARMED, 1 << 62);
    let next = tables.ept_entry(3) + 8;
    assert_eq!(tables.write(4092, 8), Outcome::Violation(GPA + 4096, 0x182));
    tables.ram.write(next, 0x6000_0037);
    assert_eq!(tables.write(4092, 8), Outcome::Done(PAGE + 4092));
    tables.ram.write(next, 0x6000_0035);
    assert_eq!(tables.write(4092, 8), denied(GPA + 4096));
    tables.ram.write(next, 0x6000_0037);
    let mut shy = Cpu::new(
        &tables.ram,
        tables.ept[0] | 0x1e,
        Some(tables.sppt[0]),
        false,
    );
    assert_eq!(shy.access(Access::Write, GPA + 4092, 8), denied(GPA + 4092));
    assert_eq!(
        shy.access(Access::Write, GPA + 4092, 4),
        Outcome::Done(PAGE + 4092)
    );
}

#[test]
fn ept_misconfigurations() {
    let wrong = [
        PAGE | 0x36,
        PAGE | 0x3f,
        1 << 46 | 0x37,
        PAGE | 0x17,
        PAGE | 0x1f,
    ];
    for leaf in wrong {
        let tables = Tables::new(leaf, 0);
        assert_eq!(
            tables.write(0, 1),
            Outcome::Misconfiguration(GPA),
            "{leaf:#x}"
        );
    }
    for (level, reserved) in [(0, 0x80), (0, 0x8), (1, 0x8), (2, 0x40), (2, 1 << 50)] {
        let tables = Tables::new(ARMED, 0);
        let at = tables.ept_entry(level);
        tables.ram.write(at, tables.ram.read(at) | reserved);
        assert_eq!(
            tables.write(0, 1),
            Outcome::Misconfiguration(GPA),
            "{level} {reserved:#x}"
        );
    }
    let tables = Tables::new(ARMED, 0);
    tables.ram.write(tables.ept_entry(2), 0x4000_1000 | 0xb7);
    assert_eq!(tables.write(0, 1), Outcome::Misconfiguration(GPA));
}

#[test]
fn absent_entries_and_addresses_beyond_48_bits_are_violations() {
    for level in 0..4 {
        let tables = Tables::new(ARMED, 0);
        tables.ram.write(tables.ept_entry(level), PAGE | 0xff8);
        assert_eq!(tables.write(0, 1), Outcome::Violation(GPA, 0x182));
    }
    let fetch = Tables::new(ARMED, 0)
        .cpu()
        .access(Access::Fetch, GPA | 1 << 48, 1);
    assert_eq!(fetch, Outcome::Violation(GPA | 1 << 48, 0x184));
}

#[test]
fn translations_and_vectors_live_until_invept() {
    let tables = Tables::new(ARMED, 1);
    let mut cpu = tables.cpu();
    assert_eq!(cpu.access(Access::Read, GPA, 1), Outcome::Done(PAGE));
    tables.ram.write(tables.sppt_entry(3), 0);
    assert_eq!(
        cpu.access(Access::Write, GPA, 1),
        Outcome::Done(PAGE),
        "stale vector"
    );
    tables.ram.write(tables.ept_entry(3), 0);
    assert_eq!(
        cpu.access(Access::Write, GPA, 1),
        Outcome::Done(PAGE),
        "stale translation"
    );
    cpu.invept();
    assert_eq!(
        cpu.access(Access::Write, GPA, 1),
        Outcome::Violation(GPA, 0x182)
    );
}

#[test]
fn a_violation_drops_the_mappings_of_its_address() {
    let tables = Tables::new(ARMED, 1);
    let mut cpu = tables.cpu();
    cpu.access(Access::Read, GPA, 1);
    tables.ram.write(tables.sppt_entry(3), 0b100);
    assert_eq!(
        cpu.access(Access::Write, GPA + 128, 1),
        denied(GPA + 128),
        "stale denial"
    );
    assert_eq!(
        cpu.access(Access::Write, GPA + 128, 1),
        Outcome::Done(PAGE + 128)
    );
}

#[test]
fn a_large_mapping_is_stale_in_all_its_pages() {
    let tables = Tables::new(ARMED, 0);
    tables.ram.write(tables.ept_entry(2), 0x4000_0000 | 0xb7);
    let mut cpu = tables.cpu();
    cpu.access(Access::Read, GPA, 1);
    tables.ram.write(tables.ept_entry(2), 0);
    let other = GPA & !0x1f_ffff;
    assert_eq!(
        cpu.access(Access::Write, other, 1),
        Outcome::Done(0x4000_0000)
    );
    cpu.invept();
    assert_eq!(
        cpu.access(Access::Write, other, 1),
        Outcome::Violation(other, 0x182)
    );
}

#[test]
fn sight_sums_up_a_page() {
    let sight = Tables::new(ARMED, 1 << 62 | 1).cpu().sight(GPA + 77);
    assert_eq!(
        (sight.frame, sight.readable, sight.armed),
        (Some(PAGE), true, true)
    );
    assert_eq!((sight.writable, sight.broken), (1 << 31 | 1, false));
    assert!(Tables::new(ARMED, 2).cpu().sight(GPA).broken);
    assert!(Tables::new(PAGE | 2, 0).cpu().sight(GPA).broken);
    assert_eq!(
        Tables::new(PAGE | 0x37, 0).cpu().sight(GPA).writable,
        u32::MAX
    );
    assert_eq!(Tables::new(0, 0).cpu().sight(GPA).frame, None);
}
