//! All latches of one upstream, in the order in which they came.
//!
//! Each stands by itself: places are kept ahead of those that come, so that only pointers stand there.

use crate::LatchId;
use crate::latch::Latch;
use crate::slots::Slots;

#[derive(Debug, Default)]
pub(crate) struct Latches(Slots<LatchId, Box<Latch>>);

impl Latches {
    #[inline]
    pub(crate) fn get(&self, id: &LatchId) -> Option<&Latch> {
        self.0.get(id).map(Box::as_ref)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: &LatchId) -> Option<&mut Latch> {
        self.0.get_mut(id).map(Box::as_mut)
    }

    pub(crate) fn insert(&mut self, id: LatchId, latch: Latch) {
        self.0.insert(id, Box::new(latch));
    }

    pub(crate) fn remove(&mut self, id: &LatchId) {
        self.0.remove(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &LatchId> {
        self.0.keys()
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &Latch> {
        self.0.values().map(Box::as_ref)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Latch> {
        self.0.values_mut().map(Box::as_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LatchId, &Latch)> {
        self.0.iter().map(|(id, latch)| (id, latch.as_ref()))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&LatchId, &mut Latch)> {
        self.0.iter_mut().map(|(id, latch)| (id, latch.as_mut()))
    }
}
