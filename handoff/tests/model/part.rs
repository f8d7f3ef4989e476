//! Parts of a world that many worlds share, and their hashes.

use crate::world::{Disk, Proc, Sup, World};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A part of the world that many worlds share; its hash is computed once, and it is judged once.
#[derive(Clone, Debug)]
pub(crate) struct Part<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    value: T,
    hash: OnceLock<u128>,
    judged: AtomicBool,
}

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Self { value, hash: OnceLock::new(), judged: AtomicBool::new(false) }
    }
}

impl<T: Clone> Clone for Shared<T> {
    /// To be edited: nothing is known of it any more.
    fn clone(&self) -> Self {
        Self::new(self.value.clone())
    }
}

impl<T: Clone + Hash> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Shared::new(value)))
    }

    /// Whether it was judged since it was edited; from now on it was.
    pub(crate) fn judged(&self) -> bool {
        self.0.judged.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn edit(&mut self) -> &mut T {
        let shared = Arc::make_mut(&mut self.0);
        shared.hash.take();
        *shared.judged.get_mut() = false;
        &mut shared.value
    }

    fn hash_of(&self) -> u128 {
        *self.0.hash.get_or_init(|| fingerprint(&self.0.value))
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone + Hash> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash_of().hash(state);
    }
}

/// Equal parts of many worlds, each kept once: a world that waits to be explored is some pointers then.
#[derive(Default)]
pub(crate) struct Pool {
    sups: Kept<Sup>,
    procs: Kept<Proc>,
    disks: Kept<Disk>,
}

type Kept<T> = HashMap<u128, Part<T>, BuildHasherDefault<Identity>>;

impl Pool {
    pub(crate) fn keep(&mut self, w: &mut World) {
        share(&mut self.sups, &mut w.sup);
        share(&mut self.disks, &mut w.disk);
        for proc in &mut w.procs {
            share(&mut self.procs, proc);
        }
        w.procs.shrink_to_fit();
    }

    /// What no world has any more.
    pub(crate) fn forget(&mut self) {
        self.sups.retain(|_, part| Arc::strong_count(&part.0) > 1);
        self.procs.retain(|_, part| Arc::strong_count(&part.0) > 1);
        self.disks.retain(|_, part| Arc::strong_count(&part.0) > 1);
    }
}

fn share<T: Clone + Hash>(kept: &mut Kept<T>, part: &mut Part<T>) {
    let one = kept.entry(part.hash_of()).or_insert_with(|| part.clone());
    if !Arc::ptr_eq(&one.0, &part.0) {
        *part = one.clone();
    }
}

/// For keys that are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, n: u128) {
        self.0 = n as u64;
    }
}

pub(crate) fn fingerprint(value: &impl Hash) -> u128 {
    let mut hasher = Mixer { a: 0x243f_6a88_85a3_08d3, b: 0x1319_8a2e_0370_7344 };
    value.hash(&mut hasher);
    (u128::from(hasher.a) << 64) | u128::from(hasher.b)
}

struct Mixer {
    a: u64,
    b: u64,
}

fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.a
    }

    fn write(&mut self, _text: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.a = fold(self.a ^ n, 0x9e37_79b9_7f4a_7c15).wrapping_add(0x632b_e59b_d9b4_e019);
        self.b = fold(self.b.rotate_left(23) ^ n, 0xd6e8_feb8_6659_fd93).wrapping_add(self.a);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(n.into());
    }

    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}
