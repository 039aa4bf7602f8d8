//! What one decision holds while it is made: its shards, locked in order, and where the keys' times are kept.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Inner, OVERFLOWS};
use crate::limiter::{
    Key, MAX_POLICIES,
    table::{Before, Cell, Table},
};

pub(super) struct Coarse {
    pub(super) table: Table,
    pub(super) overflow: Vec<(u64, u64)>,
    pub(super) folded: u64,
}

pub(super) type Guard<'a, T> = MutexGuard<'a, T>;

/// Shards that one decision has locked, in ascending order.
pub(super) struct Locked<'a> {
    pub(super) inner: &'a Inner,
    pub(super) guards: [Option<(usize, Guard<'a, Table>)>; MAX_POLICIES],
    pub(super) coarse: Option<Guard<'a, Coarse>>,
}

/// Where a key's TAT is kept.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Own(usize, Cell),
    Coarse(u64, Cell),
    Overflow(usize),
}

#[derive(Clone, Copy)]
pub(super) enum Undo {
    Own(usize, Before),
    Coarse(Before),
    Overflow(usize, u64),
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    // Every write is whole before the next can fail, so a poisoned table is still a table.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Locked<'a> {
    pub(super) fn index(&self, shard: usize) -> usize {
        self.guards.iter().position(|g| g.as_ref().is_some_and(|(s, _)| *s == shard)).unwrap_or(0)
    }

    pub(super) fn table(&self, guard: usize) -> Option<&Table> {
        self.guards.get(guard)?.as_ref().map(|(_, table)| &**table)
    }

    pub(super) fn coarse(&mut self) -> &mut Guard<'a, Coarse> {
        self.coarse.get_or_insert_with(|| lock(&self.inner.coarse))
    }

    /// The key's own cell, or the finest coarser one there is room for.
    pub(super) fn place(&mut self, guard: usize, policy: u64, key: &Key, hash: u64, now: u64) -> Place {
        match self.table(guard).and_then(|table| table.find(hash, now)) {
            Some(cell) => Place::Own(guard, cell),
            None => self.fold(policy, key, now),
        }
    }

    #[cold]
    pub(super) fn fold(&mut self, policy: u64, key: &Key, now: u64) -> Place {
        let inner = self.inner;
        let coarse = self.coarse();
        coarse.folded += 1;
        for level in 1..=key.levels() {
            let hash = inner.hash(policy, key, level);
            if let Some(cell) = coarse.table.find(hash, now) {
                return Place::Coarse(hash, cell);
            }
        }
        let known = coarse.overflow.iter().position(|(id, _)| *id == policy);
        let known = known.or_else(|| {
            let free = coarse.overflow.iter().position(|(_, tat)| *tat <= now)?;
            coarse.overflow.get_mut(free).map(|slot| *slot = (policy, 0))?;
            Some(free)
        });
        Place::Overflow(known.unwrap_or_else(|| {
            if coarse.overflow.len() < OVERFLOWS {
                coarse.overflow.push((policy, 0));
            }
            coarse.overflow.len() - 1
        }))
    }

    pub(super) fn tat(&mut self, place: Place) -> u64 {
        match place {
            Place::Own(_, cell) | Place::Coarse(_, cell) => cell.tat,
            Place::Overflow(i) => self.coarse().overflow.get(i).map_or(0, |(_, tat)| *tat),
        }
    }

    pub(super) fn write(&mut self, place: Place, hash: u64, tat: u64) -> Option<Undo> {
        match place {
            Place::Own(guard, cell) => {
                let (_, table) = self.guards.get_mut(guard)?.as_mut()?;
                Some(Undo::Own(guard, table.write(cell, hash, tat)))
            }
            Place::Coarse(hash, cell) => Some(Undo::Coarse(self.coarse().table.write(cell, hash, tat))),
            Place::Overflow(i) => {
                let (_, slot) = self.coarse().overflow.get_mut(i)?;
                Some(Undo::Overflow(i, std::mem::replace(slot, tat)))
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Own(guard, before) => {
                if let Some((_, table)) = self.guards.get_mut(guard).and_then(Option::as_mut) {
                    table.restore(before);
                }
            }
            Undo::Coarse(before) => self.coarse().table.restore(before),
            Undo::Overflow(i, tat) => {
                if let Some((_, slot)) = self.coarse().overflow.get_mut(i) {
                    *slot = tat;
                }
            }
        }
    }
}
