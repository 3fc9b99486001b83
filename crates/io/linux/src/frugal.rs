//! Memory for processes that are many and small. An allocator for big programs gives every size of block a page of its
//! own, thirty of them before a shim has done anything; here blocks of all sizes lie side by side, and what is given back
//! is used again before anything new is touched. It serves one thread: the zygote and its shims have no more.
//!
//! Blocks have no headers, as whoever gives one back tells its size; free ones hold their size and the next one's place,
//! in the order of their places, so that neighbours grow together.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// What does not fit goes to the allocator behind.
const ROOM_BYTES: usize = 256 << 10;
/// Sizes are multiples of it, and no block is aligned to more.
const UNIT_BYTES: usize = 16;
const NONE: usize = usize::MAX;

static IN_USE: AtomicBool = AtomicBool::new(false);
static ROOM: Room = Room(UnsafeCell::new([0; ROOM_BYTES]));
static PLACES: Places = Places(UnsafeCell::new(Arena::new()));

/// From now on this process, and whatever it forks, has its memory here. It must have one thread and stay so.
pub fn begin() {
    // SAFETY: the address of a static; nobody else holds the arena, as nothing was allocated from it yet.
    unsafe { (*PLACES.0.get()).base = ROOM.0.get().cast() };
    IN_USE.store(true, Ordering::Relaxed);
}

/// An allocator for a program that begins as others do and has frugal children.
pub struct Frugal<A>(pub A);

#[repr(C, align(4096))]
struct Room(UnsafeCell<[u8; ROOM_BYTES]>);

struct Places(UnsafeCell<Arena>);

// SAFETY: both are touched only once `begin` was called, by processes with one thread.
unsafe impl Sync for Room {}
// SAFETY: as above.
unsafe impl Sync for Places {}

/// Places are counted in bytes from `base`.
struct Arena {
    base: *mut u8,
    /// From here on nothing was ever handed out, or all of it was given back.
    top: usize,
    /// The first free block.
    free: usize,
}

#[derive(Clone, Copy)]
struct Free {
    next: usize,
    bytes: usize,
}

impl Arena {
    const fn new() -> Arena {
        Arena { base: ptr::null_mut(), top: 0, free: NONE }
    }

    fn read(&self, place: usize) -> Free {
        // SAFETY: places of free blocks are multiples of the unit below `top`, and `give_back` wrote there.
        unsafe { self.base.add(place).cast::<Free>().read() }
    }

    fn write(&mut self, place: usize, free: Free) {
        // SAFETY: a block that nobody has, aligned to and no shorter than a unit, which is what this takes.
        unsafe { self.base.add(place).cast::<Free>().write(free) }
    }

    /// Lets the list lead from a block, or from its beginning, to another.
    fn link(&mut self, from: usize, to: usize) {
        match from {
            NONE => self.free = to,
            from => {
                let block = self.read(from);
                self.write(from, Free { next: to, ..block });
            }
        }
    }

    /// The place of a block; `bytes` is a multiple of the unit.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let (mut before, mut place) = (NONE, self.free);
        while place != NONE {
            let block = self.read(place);
            if block.bytes >= bytes {
                let mut next = block.next;
                if block.bytes > bytes {
                    next = place + bytes;
                    self.write(next, Free { next: block.next, bytes: block.bytes - bytes });
                }
                self.link(before, next);
                return Some(place);
            }
            (before, place) = (place, block.next);
        }
        let place = self.top;
        (bytes <= ROOM_BYTES - place).then(|| self.top = place + bytes)?;
        Some(place)
    }

    fn give_back(&mut self, place: usize, bytes: usize) {
        let (mut earlier, mut before, mut next) = (NONE, NONE, self.free);
        while next != NONE && next < place {
            (earlier, before, next) = (before, next, self.read(next).next);
        }
        let (mut start, mut block) = (place, Free { next, bytes });
        if place + bytes == next {
            let after = self.read(next);
            block = Free { next: after.next, bytes: bytes + after.bytes };
        }
        if before != NONE && before + self.read(before).bytes == place {
            block.bytes += self.read(before).bytes;
            (start, before) = (before, earlier);
        }
        if start + block.bytes == self.top {
            self.top = start;
            return self.link(before, NONE);
        }
        self.write(start, block);
        self.link(before, start);
    }

    /// Whether the block at a place could be made longer or shorter where it is.
    fn resize(&mut self, place: usize, old: usize, new: usize) -> bool {
        let fits = place + old == self.top && new <= ROOM_BYTES - place;
        if fits {
            self.top = place + new;
        }
        fits || old == new
    }

    fn place_of(&self, pointer: *mut u8) -> Option<usize> {
        let place = pointer.addr().wrapping_sub(self.base.addr());
        (place < ROOM_BYTES).then_some(place)
    }
}

fn units(layout: Layout) -> usize {
    layout.size().next_multiple_of(UNIT_BYTES)
}

/// A block of the arena, if it is in use and has room.
fn allocate(layout: Layout) -> Option<*mut u8> {
    if !IN_USE.load(Ordering::Relaxed) || layout.align() > UNIT_BYTES || layout.size() > ROOM_BYTES {
        return None;
    }
    // SAFETY: this process has one thread, and nothing here allocates.
    let arena = unsafe { &mut *PLACES.0.get() };
    // SAFETY: a place that was just handed out lies within the room.
    arena.take(units(layout)).map(|place| unsafe { arena.base.add(place) })
}

/// The arena and the block's place in it, if it is one of the arena's.
fn own(pointer: *mut u8) -> Option<(&'static mut Arena, usize)> {
    if !IN_USE.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: this process has one thread, and nothing here allocates.
    let arena = unsafe { &mut *PLACES.0.get() };
    arena.place_of(pointer).map(|place| (arena, place))
}

// SAFETY: blocks of the arena do not overlap (`take`), are aligned to its unit and as long as asked for; all others are
// the inner allocator's, and go back to whom they came from.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Frugal<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about the layout is passed on.
        allocate(layout).unwrap_or_else(|| unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match allocate(layout) {
            Some(block) => {
                // SAFETY: the block is new and at least so long.
                unsafe { ptr::write_bytes(block, 0, layout.size()) };
                block
            }
            // SAFETY: the caller's promise about the layout is passed on.
            None => unsafe { self.0.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match own(block) {
            Some((arena, place)) => arena.give_back(place, units(layout)),
            // SAFETY: the block is the inner allocator's, with this layout.
            None => unsafe { self.0.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some((arena, place)) = own(block) else {
            // SAFETY: the block is the inner allocator's, with this layout.
            return unsafe { self.0.realloc(block, layout, size) };
        };
        // SAFETY: the caller promises that size and alignment make a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if arena.resize(place, units(layout), units(wanted)) {
            return block;
        }
        // SAFETY: two blocks that do not overlap, each at least as long as what is copied; the old one is the caller's.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An arena of the test's own, and the memory that it deals out.
    fn arena(memory: &mut [u128]) -> Arena {
        Arena { base: memory.as_mut_ptr().cast(), ..Arena::new() }
    }

    #[test]
    fn what_was_given_back_is_used_again_before_anything_new() {
        let mut memory = vec![0_u128; ROOM_BYTES / 16];
        let mut arena = arena(&mut memory);
        let places: Vec<usize> = [32, 16, 48].iter().map(|bytes| arena.take(*bytes).unwrap()).collect();
        assert_eq!(places, [0, 32, 48]);
        arena.give_back(0, 32);
        assert_eq!((arena.take(16), arena.take(16), arena.take(16)), (Some(0), Some(16), Some(96)));
        for (place, bytes) in [(0, 16), (32, 16), (16, 16), (96, 16), (48, 48)] {
            arena.give_back(place, bytes);
        }
        assert_eq!((arena.top, arena.free), (0, NONE));
        assert_eq!(arena.take(ROOM_BYTES + 16), None);
        assert_eq!(arena.take(ROOM_BYTES), Some(0));
        assert_eq!(arena.take(16), None);
    }

    #[test]
    fn the_last_block_grows_where_it_is() {
        let mut memory = vec![0_u128; ROOM_BYTES / 16];
        let mut arena = arena(&mut memory);
        let (first, last) = (arena.take(16).unwrap(), arena.take(16).unwrap());
        assert!(!arena.resize(first, 16, 32));
        assert!(arena.resize(last, 16, 64));
        assert_eq!(arena.take(16), Some(80));
    }

    /// Many steps from a fixed seed: blocks never overlap, and in the end all is one piece again.
    #[test]
    fn blocks_never_overlap() {
        let mut memory = vec![0_u128; ROOM_BYTES / 16];
        let mut arena = arena(&mut memory);
        let (mut held, mut seed) = (Vec::<(usize, usize)>::new(), 7_u64);
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let dice = (seed >> 33) as usize;
            if dice.is_multiple_of(3) && !held.is_empty() {
                let (place, bytes) = held.swap_remove(dice / 3 % held.len());
                arena.give_back(place, bytes);
            } else if let Some(place) = arena.take(16 * (1 + dice % 90)) {
                let end = place + 16 * (1 + dice % 90);
                assert!(end <= ROOM_BYTES);
                assert!(held.iter().all(|(other, bytes)| end <= *other || other + bytes <= place));
                held.push((place, end - place));
            }
        }
        held.drain(..).for_each(|(place, bytes)| arena.give_back(place, bytes));
        assert_eq!((arena.top, arena.free), (0, NONE));
    }
}
