// SPDX-License-Identifier: GPL-2.0

//! Accessed and dirty flags.

use spp::Mask;
use std::vec;
use std::vec::Vec;

use super::format::{ACCESSED, DIRTY};
use super::*;
use crate::model::{Event, Meanwhile, Model};
use crate::stop::Denial;

const GVA: u64 = 0xffff_8123_4567_89ab;
const A: u64 = ACCESSED;
const D: u64 = DIRTY;

/// A linear address, the registers, the entries that its walk uses, from the top.
struct Case {
    name: &'static str,
    paging: Paging,
    gva: u64,
    entries: Vec<(u64, u64)>,
    bytes: usize,
}

impl Case {
    fn model(&self) -> Model {
        let mut model = Model::default();
        for (at, value) in &self.entries {
            model.ram.write(*at, &value.to_le_bytes()[..self.bytes]);
        }
        model
    }

    fn run(&self, model: &mut Model, access: Access) -> Result<Gpa, Fault> {
        model.log.clear();
        let gva = Gva::new(self.gva);
        self.paging.translate_and_mark(model, gva, access)
    }

    fn entry(&self, model: &mut Model, n: usize) -> u64 {
        let mut bytes = [0; 8];
        let at = Gpa::new(self.entries[n].0);
        assert!(model.ram.read(at, &mut bytes[..self.bytes]));
        u64::from_le_bytes(bytes)
    }

    /// Which flags each entry has got that it had not.
    fn flags(&self, model: &mut Model) -> Vec<u64> {
        let all = 0..self.entries.len();
        all.map(|n| self.entry(model, n) ^ self.entries[n].1)
            .collect()
    }
}

/// Every format with every size of page.
fn cases() -> Vec<Case> {
    let wide = Paging {
        cr0: CR0_PG | 1,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: EFER_LMA | EFER_NXE,
        ..Paging::default()
    };
    let five = Paging {
        cr4: CR4_PAE | CR4_LA57,
        cr3: 0x9000,
        ..wide
    };
    let pae = Paging {
        efer: 0,
        pdptes: [0, 0, 0, 0x1001],
        ..wide
    };
    let two = Paging {
        cr4: CR4_PSE,
        ..pae
    };
    let at = |table: u64, shift: u32| table + (GVA >> shift & 511) * 8;
    let pml4 = (at(0x1000, 39), 0x2007);
    let pdpt = (at(0x2000, 30), 0x3007);
    let pd = (at(0x3000, 21), 0x4007);
    let pt = (at(0x4000, 12), 0x5007);
    let case = |name, paging, entries, bytes| Case {
        name,
        paging,
        gva: GVA,
        entries,
        bytes,
    };
    let low = |mut case: Case, gva| {
        case.gva = gva;
        case
    };
    vec![
        case("4-level 4K", wide, vec![pml4, pdpt, pd, pt], 8),
        case("4-level 2M", wide, vec![pml4, pdpt, (pd.0, 0x20_0087)], 8),
        case("4-level 1G", wide, vec![pml4, (pdpt.0, 0x4000_0087)], 8),
        case(
            "5-level 4K",
            five,
            vec![(at(0x9000, 48), 0x1007), pml4, pdpt, pd, pt],
            8,
        ),
        low(
            case("PAE 4K", pae, vec![(0x1000, 0x2007), (0x2008, 0x7)], 8),
            0xc000_1234,
        ),
        low(
            case("PAE 2M", pae, vec![(0x1008, 0x20_0087)], 8),
            0xc020_1234,
        ),
        low(
            case(
                "32-bit 4K",
                two,
                vec![(0x1004, 0x2007), (0x200c, 0x5007)],
                4,
            ),
            0x40_3456,
        ),
        low(
            case("32-bit 4M", two, vec![(0x1004, 0x40_0087)], 4),
            0x40_3456,
        ),
    ]
}

#[test]
fn each_entry_is_accessed_and_the_last_dirty() {
    for case in cases() {
        let (mut model, count) = (case.model(), case.entries.len());
        let read = case.run(&mut model, Access::READ).unwrap();
        assert_eq!(case.flags(&mut model), vec![A; count], "{}", case.name);
        let size = case.bytes;
        let want = case.entries.iter().map(|e| Event::Exchange(e.0, size));
        assert_eq!(model.writes(), want.collect::<Vec<_>>(), "{}", case.name);

        // Flags that are there are not written again.
        assert_eq!(case.run(&mut model, Access::READ), Ok(read));
        assert_eq!(case.run(&mut model, Access::FETCH), Ok(read));
        assert_eq!(model.writes(), [], "{}", case.name);

        let mut flags = vec![A; count];
        flags[count - 1] |= D;
        let leaf = case.entries[count - 1].0;
        assert_eq!(case.run(&mut model, Access::WRITE), Ok(read));
        assert_eq!(case.flags(&mut model), flags, "{}", case.name);
        assert_eq!(model.writes(), [Event::Exchange(leaf, size)]);
        assert_eq!(case.run(&mut model, Access::WRITE), Ok(read));
        assert_eq!(model.writes(), [], "{}", case.name);

        // A write to what was never used sets both at once.
        let mut model = case.model();
        assert_eq!(case.run(&mut model, Access::WRITE), Ok(read));
        assert_eq!(case.flags(&mut model), flags, "{}", case.name);
        assert_eq!(model.writes().len(), count);
    }
}

#[test]
fn translation_alone_and_faults_set_nothing() {
    for case in cases() {
        let mut model = case.model();
        let gva = Gva::new(case.gva);
        let gpa = case.paging.translate(&mut model, gva, Access::WRITE);
        assert!(gpa.is_ok());
        assert_eq!(model.writes(), []);

        // Not present, reserved or forbidden at any level.
        let user = Case {
            paging: Paging {
                user: true,
                cr0: case.paging.cr0 | CR0_WP,
                ..case.paging
            },
            ..case
        };
        for n in 0..user.entries.len() {
            let (at, value) = user.entries[n];
            for broken in [value & !1, value & !2, value & !4] {
                let mut model = user.model();
                let broken = broken.to_le_bytes();
                model.ram.write(at, &broken[..user.bytes]);
                let got = user.run(&mut model, Access::WRITE);
                assert!(matches!(got, Err(Fault::Page(6 | 7))), "{got:?}");
                assert_eq!(model.writes(), [], "{}", user.name);
            }
        }
    }
}

#[test]
fn a_denied_flag_stops_the_walk_before_any_is_set() {
    for case in cases() {
        for (n, (at, _)) in case.entries.iter().enumerate() {
            let mut model = case.model();
            let bit = 1 << (at / 128 % 32);
            model.protect(*at, !bit);
            let denial = Denial {
                gpa: Gpa::new(*at),
                gva: Gva::new(case.gva),
                size: case.bytes as u16,
                denied: Mask::from_raw(bit),
                map: Mask::from_raw(!bit),
                read: true,
                walk: true,
            };
            let denied = Err(Fault::Stop(Stop::Denied(denial)));
            assert_eq!(case.run(&mut model, Access::READ), denied, "{}", case.name);
            assert_eq!(model.writes(), []);

            // What is set already needs no permission.
            model.maps.clear();
            let gpa = case.run(&mut model, Access::READ);
            model.protect(*at, !bit);
            assert!(gpa.is_ok());
            assert_eq!(case.run(&mut model, Access::READ), gpa);
            let last = n + 1 == case.entries.len();
            let want = if last { denied } else { gpa };
            assert_eq!(case.run(&mut model, Access::WRITE), want, "{}", case.name);

            // All others of the page may be denied.
            let mut model = case.model();
            model.protect(*at, bit);
            let others = case.entries.iter().filter(|e| e.0 >> 12 == at >> 12);
            let shared = others.filter(|e| e.0 / 128 != at / 128).count() > 0;
            assert!(!shared);
            assert_eq!(case.run(&mut model, Access::READ), gpa, "{}", case.name);
        }
    }
}

#[test]
fn flags_in_read_only_memory_stay() {
    for case in cases() {
        for n in 0..case.entries.len() {
            let mut model = case.model();
            model.rom.insert(case.entries[n].0 >> 12);
            assert!(case.run(&mut model, Access::WRITE).is_ok());
            let flags = case.flags(&mut model);
            for (i, flags) in flags.iter().enumerate() {
                assert_eq!(*flags == 0, i == n, "{} {n} {i}", case.name);
            }
        }
    }
}

#[test]
fn a_table_at_a_device_is_not_there() {
    let [case, ..] = &cases()[..] else {
        unreachable!()
    };
    for n in 1..4 {
        let mut model = case.model();
        let at = case.entries[n - 1].0;
        model.ram.write_u64(at, 0xdead_0007);
        let index = case.entries[n].0 & 0xfff;
        let want = Err(Fault::NoTable(Gpa::new(0xdead_0000 | index)));
        assert_eq!(case.run(&mut model, Access::WRITE), want);
        assert_eq!(model.writes(), []);
    }
}

#[test]
fn an_entry_that_changes_is_walked_again() {
    for case in cases() {
        let count = case.entries.len();
        let (leaf, value) = case.entries[count - 1];
        // Another processor sets a flag first: the second walk finds it.
        let mut model = case.model();
        let store = |flags: u64| Meanwhile::Store(leaf, value | flags);
        model.meanwhile = vec![store(A | 1 << 9)];
        assert!(case.run(&mut model, Access::WRITE).is_ok());
        assert_eq!(case.entry(&mut model, count - 1), value | A | D | 1 << 9);

        // It takes the page away: the second walk faults.
        let mut model = case.model();
        model.meanwhile = vec![Meanwhile::Store(leaf, 0)];
        assert_eq!(
            case.run(&mut model, Access::WRITE),
            Err(Fault::Page(2)),
            "{}",
            case.name
        );
        assert_eq!(case.entry(&mut model, count - 1), 0);

        // It never stops.
        let mut model = case.model();
        model.meanwhile = (0..100).map(|n| store((n % 7 + 1) << 9)).collect();
        let got = case.run(&mut model, Access::WRITE);
        assert_eq!(got, Err(Fault::Stop(Stop::Retry)), "{}", case.name);
        assert!(model.meanwhile.len() > 70, "bounded");
    }
}

#[test]
fn a_map_that_changes_is_seen() {
    for case in cases() {
        let (at, value) = case.entries[0];
        let mut model = case.model();
        model.meanwhile = vec![Meanwhile::Map(at, Mask::NONE)];
        let got = case.run(&mut model, Access::READ);
        assert!(
            matches!(got, Err(Fault::Stop(Stop::Denied(d))) if d.walk && d.gpa.get() == at),
            "{got:?}"
        );
        assert_eq!(case.entry(&mut model, 0), value);

        let mut model = case.model();
        model.meanwhile = vec![Meanwhile::Fail];
        let got = case.run(&mut model, Access::READ);
        assert_eq!(got, Err(Fault::Stop(Stop::Host)));
    }
}

/// One flag at a time, as the processor gets to them, whoever it does that for.
#[test]
fn the_flag_that_the_processor_wanted() {
    for case in cases() {
        let paging = Paging {
            user: true,
            cr0: case.paging.cr0 | CR0_WP,
            cr4: case.paging.cr4 | CR4_SMAP | CR4_SMEP | CR4_PKE,
            pkru: u32::MAX,
            ..case.paging
        };
        let count = case.entries.len();
        let (leaf, value) = case.entries[count - 1];
        for rights in [0, 1 << 1, 1 << 2] {
            let mut model = case.model();
            let value = (value & !rights).to_le_bytes();
            model.ram.write(leaf, &value[..case.bytes]);
            let gva = Gva::new(case.gva);
            let mut set = || paging.set_flag(&mut model, gva, Gpa::new(leaf));
            assert_eq!(set(), Ok(()), "{}", case.name);
            assert_eq!(set(), Ok(()), "{}", case.name);
            let mut flags = vec![A; count];
            flags[count - 1] |= D | rights;
            assert_eq!(case.flags(&mut model), flags, "{}", case.name);
        }
        let mut model = case.model();
        let gva = Gva::new(case.gva);
        let set = paging.set_flag(&mut model, gva, Gpa::new(leaf));
        assert_eq!(set, Ok(()), "{}", case.name);
        assert_eq!(case.flags(&mut model), vec![A; count], "{}", case.name);
    }
}
