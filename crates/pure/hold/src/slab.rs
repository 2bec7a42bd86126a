//! Tables whose keys are never mistaken for a later entry in the same place.

use std::fmt;
use std::marker::PhantomData;

/// A place in a table plus the count of times it was used before.
pub(crate) trait Key: Copy {
    /// Makes a key.
    fn new(slot: u32, generation: u32) -> Self;
    /// The place.
    fn slot(self) -> u32;
    /// Times the place was used before.
    fn generation(self) -> u32;
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            slot: u32,
            generation: u32,
        }

        impl $name {
            /// The place in the table: dense, so that a caller may keep a parallel vector. Reused after the entry has left.
            #[must_use]
            pub fn slot(self) -> usize {
                usize::try_from(self.slot).unwrap_or(usize::MAX)
            }
        }

        impl Key for $name {
            fn new(slot: u32, generation: u32) -> Self {
                Self { slot, generation }
            }
            fn slot(self) -> u32 {
                self.slot
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}#{}", self.slot, self.generation)
            }
        }
    };
}

key_type!(
    /// An admitted request. After it has left, the key is stale and every call with it does nothing.
    RequestKey
);
key_type!(
    /// A replica. After `ReplicaDown` the key is stale.
    ReplicaKey
);

#[derive(Debug, Clone)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// A table that reuses places and grows only to the largest number of entries held at once.
#[derive(Debug, Clone)]
pub(crate) struct Slab<K, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    keys: PhantomData<K>,
}

impl<K, T> Default for Slab<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), keys: PhantomData }
    }
}

impl<K: Key, T> Slab<K, T> {
    /// Adds an entry.
    pub(crate) fn insert(&mut self, value: T) -> K {
        if let Some(slot) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index(slot))
        {
            entry.value = Some(value);
            return K::new(slot, entry.generation);
        }
        let slot = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry { generation: 0, value: Some(value) });
        K::new(slot, 0)
    }

    /// The entry, unless it has left.
    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.entries.get(index(key.slot())).filter(|entry| entry.generation == key.generation())?.value.as_ref()
    }

    /// The entry, unless it has left.
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.entries.get_mut(index(key.slot())).filter(|entry| entry.generation == key.generation())?.value.as_mut()
    }

    /// Takes the entry out.
    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        let entry = self.entries.get_mut(index(key.slot())).filter(|entry| entry.generation == key.generation())?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.slot());
        Some(value)
    }

    /// All entries, in order of place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries.iter().enumerate().filter_map(|(slot, entry)| {
            let slot = u32::try_from(slot).ok()?;
            entry.value.as_ref().map(|value| (K::new(slot, entry.generation), value))
        })
    }

    /// All entries, in order of place, for change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        self.entries.iter_mut().enumerate().filter_map(|(slot, entry)| {
            let slot = u32::try_from(slot).ok()?;
            let generation = entry.generation;
            entry.value.as_mut().map(|value| (K::new(slot, generation), value))
        })
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}
