// SPDX-License-Identifier: GPL-2.0

//! The guarded path: the only way from an instruction to guest memory.
//!
//! ```text
//!   linear address, length
//!        |
//!   prepare_write: guest page tables, each page        #PF, #GP ---------> Stop
//!        |         what is there: memory or a device
//!        |         sub-page maps of all bytes          denied -----------> Stop
//!        v
//!      Span   every fragment of the access; cannot be made in any other way
//!        |
//!        |    side effects come here: ports and devices are read
//!        v
//!   commit    the owner of the memory checks the maps once more and writes all of it,
//!             both under the lock under which maps change     changed ---> Stop::Retry
//! ```
//!
//! So a write is all or nothing across sub-pages, pages and devices, and what a
//! permission change that lands in between forbids is not written.

use ept::{Gfn, Gpa, Gva};
use spp::Mask;

use crate::cpu::Cpu;
use crate::journal::Journal;
use crate::paging::Access;
use crate::stop::{Denial, Stop};
use crate::GuestPhys;
pub use bytes::following;
use bytes::Written;
use span::Fragments;
pub use span::{Fragment, Intent, Source, Span};
pub use translate::Translations;
pub use watch::Breakpoints;

mod bytes;
mod entry;
mod span;
mod translate;
mod watch;

/// Longest span, in bytes: a page's worth of a string, or the frame of ENTER.
pub const MAX_SPAN: usize = 4096;

/// What is at a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Memory; the map says which sub-pages the guest may write.
    Ram(Mask),
    /// Memory that cannot be written: writes are a device's.
    Rom,
    /// A device.
    Device,
}

/// Why memory could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not as it was when the span was prepared: a map, a slot or a host page
    /// has changed.
    Changed,
    /// The owner failed, and remembers how.
    Host,
}

/// Guest-physical memory, as its owner offers it to the guarded path.
pub trait Memory: GuestPhys {
    /// What is at a frame now.
    fn page(&mut self, gfn: Gfn) -> Page;

    /// Writes the memory fragments of a span, or nothing. `data` are the bytes of the
    /// whole span; of these, those are written whose bit is set in `bytes`, which
    /// covers the first 64; further ones always.
    ///
    /// # Errors
    ///
    /// [`Trouble`]: no byte was written. The owner makes sure that the maps of all
    /// bytes to be written allow that at the time of the write.
    fn write(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Trouble>;

    /// Replaces `old` by `new` in the memory fragments of a span, at once for all
    /// processors where its address is aligned. False: `old` is not there.
    ///
    /// # Errors
    ///
    /// As for [`Memory::write`].
    fn exchange(&mut self, span: &Span, old: &[u8], new: &[u8]) -> Result<bool, Trouble>;
}

/// A write that is being prepared.
struct Write {
    gva: Gva,
    size: u16,
    intent: Intent,
    /// As for [`Guest::prepare_bytes`].
    bytes: u64,
}

/// A virtual CPU and all that its instructions reach.
pub struct Guest<'a> {
    /// Its registers.
    pub cpu: &'a mut Cpu,
    /// Its XSAVE area in the standard format (SDM 1 13.4).
    pub fpu: &'a mut [u8],
    /// Its memory.
    pub memory: &'a mut dyn Memory,
    /// Its devices.
    pub devices: &'a mut Journal,
    /// The translations that were used last.
    translated: Translations,
    /// Data breakpoints that were met, bits 3:0.
    met: u8,
}

impl<'a> Guest<'a> {
    /// A virtual CPU for one instruction, or one event.
    pub fn new(
        cpu: &'a mut Cpu,
        fpu: &'a mut [u8],
        memory: &'a mut dyn Memory,
        devices: &'a mut Journal,
    ) -> Self {
        Self {
            cpu,
            fpu,
            memory,
            devices,
            translated: Translations::NONE,
            met: 0,
        }
    }
}

impl Guest<'_> {
    /// Looks up bytes that are to be read: `len`, at most [`MAX_SPAN`], at a linear
    /// address. `system`: the processor reads a table of its own, whatever the CPL.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the read ends in; nothing has changed but accessed flags.
    pub fn prepare_read(&mut self, gva: Gva, len: u16, system: bool) -> Result<Source, Stop> {
        let access = Access {
            system,
            ..Access::READ
        };
        let (fragments, _) = self.fragments(gva, len, access)?;
        Ok(Source { fragments, gva })
    }

    /// Prepares a write of `len` bytes, at most [`MAX_SPAN`], at a linear address.
    ///
    /// # Errors
    ///
    /// The [`Stop`] that the write ends in; nothing has changed but accessed and dirty
    /// flags. Faults of the guest's own come before denials.
    pub fn prepare_write(&mut self, gva: Gva, len: u16, intent: Intent) -> Result<Span, Stop> {
        self.prepare_bytes(gva, len, intent, u64::MAX, false)
    }

    /// As [`Guest::prepare_write`], but only the bytes whose bits are set in `bytes`
    /// will be written, and only if there are any. `system` as in
    /// [`Guest::prepare_read`].
    ///
    /// # Errors
    ///
    /// As for [`Guest::prepare_write`].
    pub fn prepare_bytes(
        &mut self,
        gva: Gva,
        len: u16,
        intent: Intent,
        bytes: u64,
        system: bool,
    ) -> Result<Span, Stop> {
        let access = Access {
            system,
            ..Access::WRITE
        };
        let (mut fragments, page) = self.fragments(gva, len, access)?;
        let write = Write {
            gva,
            size: fragments.len(),
            intent,
            bytes,
        };
        let first_len = fragments.first.len;
        self.permit(&mut fragments.first, page, 0, &write)?;
        if let Some(second) = &mut fragments.second {
            let page = self.memory.page(second.gpa.gfn());
            self.permit(second, page, first_len, &write)?;
        }
        Ok(Span { fragments, gva })
    }

    /// Checks each sub-page that a write touches in a fragment, which lies in `page` and has
    /// `before` bytes of it before it.
    #[inline]
    fn permit(
        &self,
        fragment: &mut Fragment,
        page: Page,
        before: u16,
        write: &Write,
    ) -> Result<(), Stop> {
        let map = match page {
            Page::Ram(map) => map,
            page => {
                // Writes to read-only memory go to a device; reads do not.
                fragment.device |= page == Page::Rom;
                return Ok(());
            }
        };
        let written = Written::new(*fragment, before, write.bytes);
        let denied = map.denied(written.touched());
        if denied == Mask::NONE {
            return Ok(());
        }
        let gpa = written.first_in(denied);
        let inside = gpa.get().wrapping_sub(fragment.gpa.get());
        let ahead = u64::from(before).wrapping_add(inside);
        Err(Stop::Denied(Denial {
            gpa,
            gva: self.cpu.linear(write.gva, ahead),
            size: write.size,
            denied,
            map,
            read: write.intent == Intent::ReadWrite,
            walk: false,
        }))
    }

    /// The translations that were used last.
    pub const fn translations(&self) -> &Translations {
        &self.translated
    }

    /// Uses translations that were found before: nothing of the guest has been executed
    /// since.
    pub fn keep_translations(&mut self, known: &Translations) {
        if known.any() {
            self.translated = *known;
        }
    }

    /// Reads bytes that were looked up, from the first on, as many as `out` has.
    ///
    /// # Errors
    ///
    /// [`Stop::DeviceRead`] where a device has them, [`Stop::Retry`] where memory went.
    pub fn load(&mut self, source: &Source, out: &mut [u8]) -> Result<(), Stop> {
        self.read_fragments(&source.fragments, out, false)?;
        self.watch(source.gva, out.len(), false);
        Ok(())
    }

    /// Reads what a span is about to replace; `out` is as long as the span.
    ///
    /// # Errors
    ///
    /// As for [`Guest::load`].
    pub fn load_span(&mut self, span: &Span, out: &mut [u8]) -> Result<(), Stop> {
        self.read_fragments(&span.fragments, out, true)?;
        self.watch(span.gva, out.len(), false);
        Ok(())
    }

    /// Takes note of the data breakpoints that an access meets.
    #[inline]
    fn watch(&mut self, gva: Gva, len: usize, write: bool) {
        self.met |= self.cpu.breakpoints.met(gva, len, write);
    }

    /// The data breakpoints that accesses have met, as in DR6: once the instruction, or one
    /// element of it, is finished, they are due.
    pub const fn breakpoints_met(&self) -> u8 {
        self.met
    }

    /// `written`: the fragments are those of a span.
    fn read_fragments(
        &mut self,
        fragments: &Fragments,
        out: &mut [u8],
        written: bool,
    ) -> Result<(), Stop> {
        let len = usize::from(fragments.first.len).min(out.len());
        let (first, second) = out.split_at_mut_checked(len).ok_or(Stop::Host)?;
        self.read_fragment(&fragments.first, first, written)?;
        match &fragments.second {
            Some(fragment) => self.read_fragment(fragment, second, written),
            None => Ok(()),
        }
    }

    /// Reads as many bytes of a fragment as `out` has.
    fn read_fragment(
        &mut self,
        fragment: &Fragment,
        out: &mut [u8],
        written: bool,
    ) -> Result<(), Stop> {
        // Read-only memory is a device to writes only.
        let rom = |guest: &mut Self| guest.memory.page(fragment.gpa.gfn()) == Page::Rom;
        if fragment.device && !(written && rom(self)) {
            return self.read_device(fragment.gpa, out);
        }
        match self.memory.read(fragment.gpa, out) {
            true => Ok(()),
            false => Err(Stop::Retry),
        }
    }

    fn read_device(&mut self, gpa: Gpa, out: &mut [u8]) -> Result<(), Stop> {
        let mut at = gpa.get();
        for word in out.chunks_mut(8) {
            let len = word.len() as u64;
            self.devices
                .read(Gpa::new(at), word)
                .map_err(Stop::DeviceRead)?;
            at = at.wrapping_add(len);
        }
        Ok(())
    }

    /// Writes a span: memory at once, devices when they are next told.
    ///
    /// # Errors
    ///
    /// [`Stop`]: no byte was written.
    pub fn commit(&mut self, span: Span, data: &[u8]) -> Result<(), Stop> {
        self.commit_bytes(span, data, u64::MAX)
    }

    /// As [`Guest::commit`], for the bytes that [`Guest::prepare_bytes`] named.
    ///
    /// # Errors
    ///
    /// As for [`Guest::commit`].
    pub fn commit_bytes(&mut self, span: Span, data: &[u8], bytes: u64) -> Result<(), Stop> {
        if span.fragments.any(|f| f.device) {
            return self.commit_devices(&span, data, bytes);
        }
        self.memory.write(&span, data, bytes).map_err(stop)?;
        self.watch(span.gva, span.len(), true);
        Ok(())
    }

    /// The same where a device has a part in it.
    fn commit_devices(&mut self, span: &Span, data: &[u8], bytes: u64) -> Result<(), Stop> {
        // Bytes left out cannot be told to a device in words.
        let masked = bytes != u64::MAX && !bytes::all(bytes, span.len());
        if masked || !self.devices.room(span.fragments.device_words()) {
            return Err(Stop::Refused(crate::op::Op::Unknown));
        }
        if span.fragments.any(|f| !f.device) {
            self.memory.write(span, data, bytes).map_err(stop)?;
        }
        self.watch(span.gva, span.len(), true);
        self.tell_devices(&span.fragments, data);
        Ok(())
    }

    /// Posts what of `data` is a device's.
    fn tell_devices(&mut self, fragments: &Fragments, data: &[u8]) {
        let (first, second) = data
            .split_at_checked(fragments.first.len.into())
            .unwrap_or((data, &[]));
        if fragments.first.device {
            self.post(fragments.first.gpa, first);
        }
        if let Some(fragment) = fragments.second.filter(|f| f.device) {
            self.post(fragment.gpa, second);
        }
    }

    /// Writes the next port data to a span, which makes it used.
    ///
    /// # Errors
    ///
    /// As for [`Guest::commit`]: the data is there still.
    pub fn commit_ports(&mut self, span: Span) -> Result<(), Stop> {
        let len = span.len();
        let data = self.devices.port_data().get(..len).ok_or(Stop::Host)?;
        if span.device() {
            // One element.
            let mut element = [0; 8];
            let element = element.get_mut(..len).ok_or(Stop::Host)?;
            for (to, from) in element.iter_mut().zip(data) {
                *to = *from;
            }
            self.commit(span, element)?;
        } else {
            self.memory.write(&span, data, u64::MAX).map_err(stop)?;
            self.watch(span.gva, len, true);
        }
        self.devices.port_used(len as u16);
        Ok(())
    }

    fn post(&mut self, gpa: Gpa, bytes: &[u8]) {
        let mut at = gpa.get();
        for word in bytes.chunks(8) {
            self.devices.post(Gpa::new(at), word);
            at = at.wrapping_add(word.len() as u64);
        }
    }

    /// Replaces `old`, which [`Guest::load_span`] read, by `new`, as one access of a
    /// locked instruction.
    ///
    /// # Errors
    ///
    /// [`Stop::Retry`] where `old` is there no more; other [`Stop`]s as for
    /// [`Guest::commit`]. No byte was written.
    pub fn exchange(&mut self, span: Span, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        // Devices have no locked accesses.
        if span.device() {
            return self.commit(span, new);
        }
        match self.memory.exchange(&span, old, new).map_err(stop)? {
            true => {
                self.watch(span.gva, span.len(), true);
                Ok(())
            }
            false => Err(Stop::Retry),
        }
    }
}

fn stop(trouble: Trouble) -> Stop {
    match trouble {
        Trouble::Changed => Stop::Retry,
        Trouble::Host => Stop::Host,
    }
}

#[cfg(test)]
#[path = "tests/guard.rs"]
mod tests;
