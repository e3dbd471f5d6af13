// SPDX-License-Identifier: GPL-2.0

//! The registers that `entry.S` loads and stores, at their fixed address.

use std::arch::asm;
use std::mem::offset_of;
use std::ptr::NonNull;

use super::memory::Mapping;
use super::{End, Start, Trap};
use crate::layout::{STATE, STATE_BYTES, XSAVE_BYTES, XSAVE_IN, XSAVE_OUT};

const TRAP_STEP: u64 = 1;
const NO_TRAP: u64 = u64::MAX;

/// What is at [`STATE`]; `entry.S` has the same offsets.
#[derive(Debug)]
#[repr(C)]
struct Registers {
    gprs_in: [u64; 16],
    flags_in: u64,
    far_offset: u32,
    far_selector: u32,
    ss: u32,
    vector: u32,
    xfeatures: u64,
    armed: u64,
    host_rsp: u64,
    exit: u64,
    start: u64,
    ds: u32,
    es: u32,
    gs: u32,
    reserved: [u32; 13],
    gprs_out: [u64; 16],
    flags_out: u64,
    pad: u64,
    trap: u64,
    error: u64,
    cr2: u64,
    rip_out: u64,
    trap_flags: u64,
    cs_out: u64,
}

const _: () = assert!(offset_of!(Registers, gprs_out) == 0x100);
const _: () = assert!(offset_of!(Registers, cs_out) == 0x1b8);
const _: () = assert!(offset_of!(Registers, gs) == 0xc8);

/// Address of the number of the pad that was reached.
pub(super) const PAD: u64 = STATE + offset_of!(Registers, pad) as u64;
/// Address of the address of `native_exit`.
pub(super) const EXIT: u64 = STATE + offset_of!(Registers, exit) as u64;

/// The mapping at [`STATE`].
#[derive(Debug)]
pub(super) struct State {
    memory: Mapping,
    places: [Place; 3],
    found: Box<[u8; XSAVE_BYTES]>,
}

/// Where an XSAVE area has a component of AVX-512: on Intel's processors, whose areas
/// everything but this file knows, and on this one.
#[derive(Clone, Copy, Debug)]
struct Place {
    usual: usize,
    here: usize,
    len: usize,
}

/// Where AVX-512 begins, in Intel's areas and in AMD's.
const USUAL: usize = 832;

impl State {
    pub(super) fn new() -> Result<Self, String> {
        let mut state = Self {
            memory: Mapping::anonymous(STATE, STATE_BYTES)?,
            places: [(5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)].map(Place::new),
            found: Box::new([0; XSAVE_BYTES]),
        };
        state.registers().xfeatures = xfeatures()?;
        Ok(state)
    }

    fn registers(&mut self) -> &mut Registers {
        let at: NonNull<Registers> = self.memory.start().cast();
        // SAFETY: the mapping is aligned to a page, larger than `Registers`, zeroed, and
        // all its values are valid; the borrow of self is the only way to it, but for
        // `entry.S`, which runs when there is no borrow.
        unsafe { &mut *at.as_ptr() }
    }

    pub(super) fn xfeatures(&mut self) -> u64 {
        self.registers().xfeatures
    }

    pub(super) fn set_exit(&mut self, exit: unsafe extern "C" fn()) {
        self.registers().exit = exit as usize as u64;
    }

    pub(super) fn set_segments(&mut self, ds: u16, es: u16, gs: u16) {
        let registers = self.registers();
        registers.ds = ds.into();
        registers.es = es.into();
        registers.gs = gs.into();
    }

    pub(super) fn prepare(&mut self, start: &Start<'_>) {
        if let Some(xsave) = start.xsave {
            let memory: &mut [u8; STATE_BYTES] = self.memory.bytes();
            let area = &mut memory[XSAVE_IN as usize..][..XSAVE_BYTES];
            area[..USUAL].copy_from_slice(&xsave[..USUAL]);
            for Place { usual, here, len } in self.places {
                area[here..][..len].copy_from_slice(&xsave[usual..][..len]);
            }
        }
        let registers = self.registers();
        registers.gprs_in = start.gprs;
        registers.flags_in = start.rflags;
        registers.far_offset = start.rip as u32;
        registers.far_selector = start.cs.into();
        registers.ss = start.ss.into();
        registers.vector = start.xsave.is_some().into();
        registers.start = start.rip;
        registers.trap = NO_TRAP;
    }

    pub(super) fn end(&mut self) -> End {
        let registers = self.registers();
        let end = End {
            gprs: registers.gprs_out,
            rflags: registers.flags_out,
            rip: None,
            cs: None,
            pad: registers.pad,
            trap: None,
        };
        if registers.trap == NO_TRAP {
            return end;
        }
        let trap = Trap {
            vector: registers.trap as u8,
            error: registers.error as u32,
            cr2: registers.cr2,
        };
        End {
            rflags: registers.trap_flags,
            rip: Some(registers.rip_out),
            cs: Some(registers.cs_out as u16),
            trap: (registers.trap != TRAP_STEP).then_some(trap),
            ..end
        }
    }

    pub(super) fn xsave_out(&mut self) -> &[u8] {
        let memory: &mut [u8; STATE_BYTES] = self.memory.bytes();
        let area = &memory[XSAVE_OUT as usize..][..XSAVE_BYTES];
        self.found[..USUAL].copy_from_slice(&area[..USUAL]);
        for Place { usual, here, len } in self.places {
            self.found[usual..][..len].copy_from_slice(&area[here..][..len]);
        }
        &self.found[..]
    }
}

impl Place {
    /// CPUID leaf 0DH tells where a component is (SDM 1 13.2).
    fn new((component, usual, len): (u32, usize, usize)) -> Self {
        let mut here = 0u64;
        // SAFETY: CPUID changes no more than these four registers, of which RBX must come
        // back as it was.
        unsafe {
            asm!(
                "xchg {here}, rbx",
                "cpuid",
                "xchg {here}, rbx",
                here = inout(reg) here,
                inout("eax") 0xdu32 => _,
                inout("ecx") component => _,
                out("edx") _,
                options(nomem, nostack),
            );
        }
        let fits = here != 0 && here as usize + len <= XSAVE_BYTES;
        Self {
            usual,
            here: if fits { here as usize } else { usual },
            len,
        }
    }
}

/// The state components to load and store: x87, SSE, AVX and AVX-512, as far as the
/// system has them.
fn xfeatures() -> Result<u64, String> {
    if !std::arch::is_x86_feature_detected!("xsave") {
        return Err("no XSAVE".into());
    }
    let (low, _high): (u32, u32);
    // SAFETY: XSAVE is there, and the system has enabled it: that is what was asked. The
    // instruction reads XCR0 and nothing else.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _high, options(nomem, nostack));
    }
    Ok(u64::from(low) & 0xe7)
}
