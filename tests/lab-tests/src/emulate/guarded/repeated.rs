// SPDX-License-Identifier: GPL-2.0

//! Repeated string instructions stop at the element that is denied: those before it are
//! done, registers say so, and of the others nothing was asked.

use super::{rig, set_map, shape, told, Emit, FIRST_DEVICE, MEMORY, PORT, PROTECTED, RF};
use crate::emulate::bus::{contents, stream};
use crate::emulate::rig::{Rig, RAM};
use crate::harness::{tests, Backend, Lab};
use crate::machine::Stop;
use guest::{CODE, PAGE_SIZE};
use ioctl_api::subpage::{FULL, KVM_SPP_CAUSE_EMULATED};

tests![
    copies_from_a_device,
    input_from_a_port,
    fills_and_copies_in_memory,
    elements_over_the_border,
    backwards,
    stops_at_each_denied_sub_page,
    allowed_sub_pages_are_read_at_once,
];

/// A repeated instruction.
#[derive(Clone, Copy)]
struct Repeated {
    name: &'static str,
    emit: Emit,
    size: u64,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Device,
    Port,
    Memory,
    Rax,
}

const fn row(name: &'static str, emit: Emit, size: u64, source: Source) -> Repeated {
    Repeated {
        name,
        emit,
        size,
        source,
    }
}

const FROM_DEVICE: [Repeated; 4] = [
    row("movsb", |a| a.rep().movsb(), 1, Source::Device),
    row("movsw", |a| a.rep().movsw(), 2, Source::Device),
    row("movsd", |a| a.rep().movsd(), 4, Source::Device),
    row("movsq", |a| a.rep().movsq(), 8, Source::Device),
];

const FROM_PORT: [Repeated; 3] = [
    row("insb", |a| a.rep().insb(), 1, Source::Port),
    row("insw", |a| a.rep().insw(), 2, Source::Port),
    row("insd", |a| a.rep().insd(), 4, Source::Port),
];

const IN_MEMORY: [Repeated; 4] = [
    row("stosb", |a| a.rep().stosb(), 1, Source::Rax),
    row("stosd", |a| a.rep().stosd(), 4, Source::Rax),
    row("movsw", |a| a.rep().movsw(), 2, Source::Memory),
    row("movsq", |a| a.rep().movsq(), 8, Source::Memory),
];

const COUNT: u64 = 12;
/// The border, and the sub-page behind it.
const BORDER: u64 = 0x200;
const DENIED: u32 = 1 << 4;
const RAX: u64 = 0x0123_4567_89ab_cdef;

impl Repeated {
    fn source(&self) -> u64 {
        match self.source {
            Source::Memory => MEMORY,
            _ => FIRST_DEVICE,
        }
    }

    /// The bytes that it stores, if it stores all.
    fn data(&self, len: usize) -> Vec<u8> {
        match self.source {
            Source::Device => contents(1)[..len].to_vec(),
            Source::Memory => contents(2)[PAGE_SIZE as usize..][..len].to_vec(),
            Source::Port => (1..=len as u32).map(stream).collect(),
            Source::Rax => {
                let element = &RAX.to_le_bytes()[..self.size as usize];
                element.iter().copied().cycle().take(len).collect()
            }
        }
    }

    /// A guest about to store COUNT elements from `start` bytes into the page on.
    fn rig(&self, lab: &Lab, start: u64) -> Rig {
        let rig = rig(lab, self.emit);
        set_map(&rig, !DENIED);
        rig.machine.change_regs(|r| {
            (r.rsi, r.rdi, r.rcx) = (self.source(), PROTECTED + start, COUNT);
            (r.rdx, r.rax) = (PORT, RAX);
        });
        rig
    }

    /// What is asked for so many elements.
    fn asked(&self, elements: u64) -> String {
        let size = self.size;
        match self.source {
            Source::Device => vec![format!("r{size}"); elements as usize].join(" "),
            Source::Port if elements > 0 => format!("in{}", elements * size),
            _ => String::new(),
        }
    }

    /// Stores `ahead` bytes before the border; all elements that fit, and no other.
    fn check(&self, lab: &Lab, ahead: u64) {
        let what = format!("{} from {ahead} bytes before", self.name);
        let start = BORDER - ahead;
        let mut rig = self.rig(lab, start);
        let before = rig.machine.read(RAM, PAGE_SIZE as usize);
        let done = ahead / self.size;
        let stop = rig.run();
        let asked = |rig: &mut Rig| rig.log().iter().map(shape).collect::<Vec<_>>().join(" ");
        assert_eq!(asked(&mut rig), self.asked(done), "{what}");
        let Stop::Spp(exit) = stop else {
            panic!("{what}: {stop:x?}");
        };
        self.check_registers(&rig, start, done, &what);
        let mut expected = told(&rig, BORDER, self.size as u32, false);
        (expected.denied, expected.map) = (DENIED, !DENIED);
        expected.cause = match self.source {
            Source::Device | Source::Port => KVM_SPP_CAUSE_EMULATED,
            _ => lab.cause(),
        };
        assert_eq!(exit, expected, "{what}");
        let (from, bytes) = (start as usize, (done * self.size) as usize);
        let mut image = before;
        image[from..from + bytes].copy_from_slice(&self.data(bytes));
        assert!(rig.machine.read(RAM, PAGE_SIZE as usize) == image, "{what}");
        set_map(&rig, FULL);
        assert_eq!(rig.run(), Stop::Hlt, "{what}");
        assert_eq!(asked(&mut rig), self.asked(COUNT - done), "{what}");
        let bytes = (COUNT * self.size) as usize;
        image[from..from + bytes].copy_from_slice(&self.data(bytes));
        assert!(rig.machine.read(RAM, PAGE_SIZE as usize) == image, "{what}");
    }

    fn check_registers(&self, rig: &Rig, start: u64, done: u64, what: &str) {
        let regs = rig.machine.regs();
        let bytes = done * self.size;
        let moved = matches!(self.source, Source::Device | Source::Memory);
        let source = self.source() + if moved { bytes } else { 0 };
        let expected = (CODE, COUNT - done, source, PROTECTED + start + bytes);
        assert_eq!((regs.rip, regs.rcx, regs.rsi, regs.rdi), expected, "{what}");
        assert_ne!(regs.rflags & RF, 0, "{what}: RF is set by a fault");
    }
}

/// No element, one, and some before the border.
fn check_aligned(lab: &Lab, rows: &[Repeated]) {
    for row in rows {
        for elements in [0, 1, 5, COUNT - 1] {
            row.check(lab, elements * row.size);
        }
    }
}

fn copies_from_a_device(lab: &Lab) {
    check_aligned(lab, &FROM_DEVICE);
}

fn input_from_a_port(lab: &Lab) {
    check_aligned(lab, &FROM_PORT);
}

fn fills_and_copies_in_memory(lab: &Lab) {
    check_aligned(lab, &IN_MEMORY);
}

/// The element that is denied begins in a sub-page that is not.
fn elements_over_the_border(lab: &Lab) {
    let emulated = FROM_DEVICE.iter().chain(&FROM_PORT);
    // Whether a processor looks at the second sub-page is not tested here.
    let software = lab.backend() == Backend::Software;
    let in_memory = IN_MEMORY.iter().filter(|_| software);
    for row in emulated.chain(in_memory).filter(|row| row.size > 1) {
        for ahead in 1..row.size {
            row.check(lab, ahead);
            row.check(lab, ahead + 3 * row.size);
        }
    }
}

/// Down to a denied sub-page below.
fn backwards(lab: &Lab) {
    for row in [FROM_DEVICE[1], FROM_PORT[0], FROM_PORT[2], IN_MEMORY[1]] {
        let name = row.name;
        let mut rig = row.rig(lab, 0);
        // Four elements behind the end of the denied sub-page.
        let start = BORDER + 0x80 + 3 * row.size;
        rig.machine.change_regs(|r| {
            (r.rsi, r.rdi) = (row.source() + 0x100, PROTECTED + start);
            r.rflags |= 1 << 10;
        });
        let Stop::Spp(exit) = rig.run() else {
            panic!("{name}: no denial");
        };
        let at = BORDER + 0x80 - row.size;
        assert_eq!((exit.gpa, exit.denied), (RAM + at, DENIED), "{name}");
        let regs = rig.machine.regs();
        assert_eq!((regs.rdi, regs.rcx), (PROTECTED + at, COUNT - 4), "{name}");
        let asked: usize = rig.log().iter().map(bytes_of).sum();
        let fed = matches!(row.source, Source::Device | Source::Port);
        assert_eq!(asked as u64, if fed { 4 * row.size } else { 0 }, "{name}");
        set_map(&rig, FULL);
        assert_eq!(rig.run(), Stop::Hlt, "{name}");
        let asked: usize = rig.log().iter().map(bytes_of).sum();
        assert_eq!(asked as u64, if fed { 8 * row.size } else { 0 }, "{name}");
    }
}

/// Bytes that an access asks for.
fn bytes_of(access: &crate::emulate::bus::Access) -> usize {
    let text = shape(access);
    let number = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    number.parse().expect("a number")
}

/// Every other sub-page is denied, and allowed when the guest comes to it.
fn stops_at_each_denied_sub_page(lab: &Lab) {
    for row in [FROM_DEVICE[3], FROM_PORT[0], FROM_PORT[1], IN_MEMORY[0]] {
        let name = row.name;
        let mut rig = row.rig(lab, 0);
        set_map(&rig, 0x5555_5555);
        rig.machine.change_regs(|r| r.rcx = PAGE_SIZE / row.size);
        for n in (1..32).step_by(2) {
            let Stop::Spp(exit) = rig.run() else {
                panic!("{name}: no denial of sub-page {n}");
            };
            let at = 128 * n;
            assert_eq!((exit.gpa, exit.denied), (RAM + at, 1 << n), "{name}");
            assert_eq!(rig.machine.regs().rdi, PROTECTED + at, "{name}");
            set_map(&rig, 0x5555_5555 | (1 << n));
        }
        assert_eq!(rig.run(), Stop::Hlt, "{name}");
        let asked: usize = rig.log().iter().map(bytes_of).sum();
        let fed = matches!(row.source, Source::Device | Source::Port);
        assert_eq!(asked, if fed { 4096 } else { 0 }, "{name}");
        let data = row.data(PAGE_SIZE as usize);
        assert!(rig.machine.read(RAM, PAGE_SIZE as usize) == data, "{name}");
    }
}

/// A map takes nothing away from how much of a port is read at once.
fn allowed_sub_pages_are_read_at_once(lab: &Lab) {
    let row = FROM_PORT[0];
    let mut rig = row.rig(lab, 0);
    // 512 bytes, four sub-pages.
    set_map(&rig, 0x0000_00f0);
    rig.machine
        .change_regs(|r| (r.rdi, r.rcx) = (PROTECTED + 0x200, 512));
    let log = rig.log_until_hlt();
    let asked: Vec<String> = log.iter().map(shape).collect();
    assert_eq!(asked, ["in512"]);
    assert!(rig.machine.read(RAM + 0x200, 512) == row.data(512));
}
