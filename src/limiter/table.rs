//! A piece of the memory store: buckets of eight cells, each cell a key's hash and its TAT.

/// Cells a bucket.
pub(super) const WAYS: usize = 8;
/// Words a bucket: the hashes first, then the TATs, a cache line each.
const WORDS: usize = 2 * WAYS;

/// Cells of one shard. A key has two buckets and is in one of them or in none.
#[derive(Debug)]
pub(super) struct Table {
    /// From `calloc`: pages that no key has touched cost nothing.
    words: Box<[u64]>,
    /// The first word on a cache line.
    base: usize,
    buckets: u32,
}

/// A cell for a key: where it is, and the key's TAT (0 where it has none yet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    at: usize,
    pub(super) tat: u64,
}

/// A cell as it was before it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    at: usize,
    hash: u64,
    tat: u64,
}

impl Table {
    /// A table of at least two buckets.
    pub(super) fn new(cells: usize) -> Self {
        let buckets = cells.div_ceil(WAYS).max(2);
        let words = vec![0u64; buckets * WORDS + WAYS].into_boxed_slice();
        let base = words.as_ptr().align_offset(64).min(WAYS);
        Self { words, base, buckets: u32::try_from(buckets).unwrap_or(u32::MAX) }
    }

    pub(super) fn cells(&self) -> usize {
        self.buckets as usize * WAYS
    }

    /// The two buckets of a hash, as word offsets, from bits that do not choose the shard.
    fn places(&self, hash: u64) -> (usize, usize) {
        let pick = |bits: u64| ((bits & 0xffff_ffff) * u64::from(self.buckets)) >> 32;
        // The top bits choose the shard; mixing them in would tie a bucket to it, so only the rest is used.
        let first = pick(hash);
        let second = pick((hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32);
        let second = if first == second { (second + 1) % u64::from(self.buckets) } else { second };
        let offset = |bucket: u64| self.base + usize::try_from(bucket).unwrap_or(0) * WORDS;
        (offset(first), offset(second))
    }

    fn bucket(&self, at: usize) -> Option<&[u64; WORDS]> {
        self.words.get(at..)?.first_chunk()
    }

    /// The key's cell; or one that is free or whose TAT has passed, which is the same; or nothing.
    #[inline]
    pub(super) fn find(&self, hash: u64, now: u64) -> Option<Cell> {
        let (first, second) = self.places(hash);
        let mut free = None;
        for at in [first, second] {
            let bucket = self.bucket(at)?;
            let (hashes, tats) = bucket.split_at(WAYS);
            if let Some(i) = hashes.iter().position(|h| *h == hash) {
                return Some(Cell { at: at + i, tat: tats.get(i).copied().unwrap_or(0) });
            }
            if free.is_none() {
                free = tats.iter().position(|tat| *tat <= now).map(|i| Cell { at: at + i, tat: 0 });
            }
        }
        free
    }

    /// Gives the cell to a key.
    #[inline]
    pub(super) fn put(&mut self, cell: Cell, hash: u64, tat: u64) {
        self.set(cell.at, hash, tat);
    }

    /// Gives the cell to a key, and remembers whose it was.
    pub(super) fn write(&mut self, cell: Cell, hash: u64, tat: u64) -> Before {
        let word = |at: usize| self.words.get(at).copied().unwrap_or(0);
        let before = Before { at: cell.at, hash: word(cell.at), tat: word(cell.at + WAYS) };
        self.set(cell.at, hash, tat);
        before
    }

    /// Takes a write back.
    pub(super) fn restore(&mut self, before: Before) {
        self.set(before.at, before.hash, before.tat);
    }

    #[inline]
    fn set(&mut self, at: usize, hash: u64, tat: u64) {
        if let Some([first, .., last]) = self.words.get_mut(at..=at + WAYS) {
            *first = hash;
            *last = tat;
        }
    }

    /// Cells whose TAT lies in the future.
    pub(super) fn live(&self, now: u64) -> usize {
        let tats = self.words.get(self.base..).unwrap_or_default().chunks_exact(WORDS).filter_map(|bucket| bucket.get(WAYS..));
        tats.flatten().filter(|tat| **tat > now).count()
    }
}
