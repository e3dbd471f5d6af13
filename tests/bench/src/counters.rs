// SPDX-License-Identifier: GPL-2.0

//! How many VMX instructions a round trip takes.
//!
//! Each is one tick in the lab, but far more on silicon. The lab's emulator
//! counts them (its patch "count the VMX instructions" tells the ports):
//!
//! ```text
//!   write n  ─► 0x8902          latches counter n
//!   read     ◄─ 0x8904..0x8907  the latched counter, little-endian
//! ```

use crate::program::{endless, timed_loop};
use crate::subject::Subject;
use crate::table::{Cell, Line};
use crate::ticks::{per, ROUNDS};
use crate::Result;
use guest::asm::{eax, ecx};
use guest::Program;
use ioctl_api::run::KVM_EXIT_HLT;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SELECT: u64 = 0x8902;
const LATCH: u64 = 0x8904;
/// Selects the signature instead of a counter.
const SIGNATURE_INDEX: u8 = 0xff;
const SIGNATURE: u32 = u32::from_be_bytes(*b"VMXC");

/// The counters by index; the first [`VMX`] of them are VMX instructions.
const NAMES: [&str; 14] = [
    "VMREAD", "VMWRITE", "VMLAUNCH", "VMRESUME", "VMPTRLD", "VMPTRST", "VMCLEAR", "INVEPT",
    "INVVPID", "VMXON", "VMXOFF", "RDMSR", "WRMSR", "VM exits",
];
const VMX: usize = 11;

type Counts = [u32; NAMES.len()];

/// The counters of the lab's emulator.
pub(crate) struct Counters(File);

impl Counters {
    /// The counters, if the machine has them.
    pub(crate) fn find() -> Option<Self> {
        let ports = OpenOptions::new().read(true).write(true).open("/dev/port");
        let counters = Self(ports.ok()?);
        (counters.counter(SIGNATURE_INDEX).ok()? == SIGNATURE).then_some(counters)
    }

    fn counter(&self, index: u8) -> std::io::Result<u32> {
        self.0.write_all_at(&[index], SELECT)?;
        let mut latch = [0; 4];
        self.0.read_exact_at(&mut latch, LATCH)?;
        Ok(u32::from_le_bytes(latch))
    }

    fn read(&self) -> Result<Counts> {
        let mut counts = [0; NAMES.len()];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = self.counter(u8::try_from(index)?)?;
        }
        Ok(counts)
    }

    /// What `work` counts.
    fn during(&self, work: impl FnOnce() -> Result<()>) -> Result<Counts> {
        let before = self.read()?;
        work()?;
        let mut counts = self.read()?;
        for (count, before) in counts.iter_mut().zip(before) {
            *count = count.wrapping_sub(before);
        }
        Ok(counts)
    }
}

/// A kind of round trip whose instructions are counted.
pub(crate) struct Trip {
    /// Its name, that of its row.
    pub(crate) name: &'static str,
    program: fn() -> Result<Program>,
    repeat: fn(&mut Subject, u64) -> Result<()>,
}

/// What is counted.
pub(crate) const TRIPS: [Trip; 2] = [
    Trip {
        name: "CPUID exit",
        program: || {
            timed_loop(&[|a| {
                a.xor(eax, eax)?;
                a.xor(ecx, ecx)?;
                a.cpuid()
            }])
        },
        repeat: |subject, trips| subject.loop_ticks(trips, 0).map(|_| ()),
    },
    Trip {
        name: "HLT to user space",
        program: || endless(|a| a.hlt()),
        repeat: |subject, trips| (0..trips).try_for_each(|_| subject.run_until(KVM_EXIT_HLT)),
    },
];

impl Trip {
    /// Counts of one round trip on a device.
    fn count(&self, counters: &Counters, device: &Path) -> Result<Counts> {
        const FEW: u64 = 256;
        let mut subject = Subject::new(device, (self.program)()?)?;
        let mut least = |trips| {
            let mut least = [u32::MAX; NAMES.len()];
            for _ in 0..ROUNDS {
                let counts = counters.during(|| (self.repeat)(&mut subject, trips))?;
                least = least.min_by_sum(counts);
            }
            Ok::<Counts, Box<dyn std::error::Error>>(least)
        };
        let (few, many) = (least(FEW)?, least(2 * FEW)?);
        let mut counts = many;
        for (count, few) in counts.iter_mut().zip(few) {
            *count = u32::try_from(per(u64::from(count.saturating_sub(few)), FEW))?;
        }
        Ok(counts)
    }

    /// The table's lines: every kind that one of the devices executes.
    pub(crate) fn lines(
        &self,
        counters: &Counters,
        device: &Path,
        peer: Option<&Path>,
    ) -> Result<Vec<Line>> {
        let ours = self.count(counters, device)?;
        let theirs = peer.map(|peer| self.count(counters, peer)).transpose()?;
        let line = |name, of: &dyn Fn(&Counts) -> u32| Line {
            name,
            ours: Some(Ok(of(&ours).into())),
            theirs: theirs.as_ref().map(|counts| Ok(of(counts).into())),
            planned: None,
        };
        let kinds = NAMES.iter().enumerate();
        let mut lines: Vec<Line> = kinds
            .map(|(index, name)| line(name, &|counts| counts[index]))
            .collect();
        lines.insert(
            VMX,
            line("all VMX instructions", &|c| c[..VMX].iter().sum()),
        );
        let some = |cell: &Cell| !matches!(cell, None | Some(Ok(0)));
        lines.retain(|line| some(&line.ours) || some(&line.theirs));
        Ok(lines)
    }
}

/// Chooses the round with the least work in it: no timer interrupt.
trait MinBySum {
    fn min_by_sum(self, other: Self) -> Self;
}

impl MinBySum for Counts {
    fn min_by_sum(self, other: Self) -> Self {
        let sum = |counts: &Self| counts.iter().map(|&c| u64::from(c)).sum::<u64>();
        if sum(&other) < sum(&self) {
            other
        } else {
            self
        }
    }
}
