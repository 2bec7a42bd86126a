//! The filter that lets a scan skip what nobody asked for.

/// What engines and client libraries append to a family's name.
const SUFFIXES: [&str; 6] = ["", "_bucket", "_sum", "_count", "_total", "_created"];

/// What Ray puts in front of the names of the engine it runs.
const PREFIXES: [&str; 2] = ["", "ray_"];

/// Places of the table per spelling: at most one in four is taken, so that most unwanted names meet an empty place at once.
const PLACES_PER_SPELLING: usize = 4;

/// A compiled set of metric names.
///
/// Names compare with `:` and `_` alike: the same metric arrives as `vllm:x`, `vllm_x` or `ray_vllm_x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNames {
    filter: Option<Filter>,
}

/// A hash table with linear probing; tags and spellings lie apart, so that a name that is not wanted touches one tag only.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    /// Upper half of the hash, never 0; 0 is an empty place. A power of two long.
    tags: Box<[u32]>,
    /// The folded spelling at each taken place.
    spellings: Box<[Box<str>]>,
}

impl WantedNames {
    /// Every name.
    #[must_use]
    pub const fn all() -> Self {
        Self { filter: None }
    }

    /// Exactly these names, apart from `:` and `_` being alike.
    #[must_use]
    pub fn exact<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        Self { filter: Some(Filter::compile(names.into_iter().map(|name| fold(name.as_ref())).collect())) }
    }

    /// The families of these names, however an engine spells them: with `_bucket`, `_sum`, `_count`, `_total` or `_created` behind, with `ray_` in
    /// front, and without a suffix from that list that the given name itself ends in (OpenMetrics metadata has no `_total`).
    #[must_use]
    pub fn families<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let spellings = names.into_iter().flat_map(|name| {
            let name = fold(name.as_ref());
            let stem = SUFFIXES.iter().skip(1).find_map(|suffix| name.strip_suffix(suffix)).map(str::to_owned);
            let full = PREFIXES.iter().flat_map(|prefix| SUFFIXES.map(|suffix| format!("{prefix}{name}{suffix}")));
            let stems = stem.iter().flat_map(|stem| PREFIXES.map(|prefix| format!("{prefix}{stem}")));
            full.chain(stems).collect::<Vec<_>>()
        });
        Self { filter: Some(Filter::compile(spellings.collect())) }
    }

    /// What either set wants.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let filter = self.filter.as_ref().zip(other.filter.as_ref());
        Self { filter: filter.map(|(one, two)| Filter::compile(one.names().chain(two.names()).collect())) }
    }

    /// Whether a sample or a metadata line of this name is wanted.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.wants_bytes(name.as_bytes())
    }

    /// Whether nothing is filtered out.
    pub(crate) const fn is_all(&self) -> bool {
        self.filter.is_none()
    }

    pub(crate) fn wants_bytes(&self, name: &[u8]) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.has(name))
    }
}

impl Filter {
    fn compile(names: Vec<String>) -> Self {
        let places = names.len().max(1).saturating_mul(PLACES_PER_SPELLING).next_power_of_two();
        let mut filter = Self {
            tags: vec![0; places].into_boxed_slice(),
            spellings: vec![Box::<str>::default(); places].into_boxed_slice(),
        };
        for name in names {
            let (mut place, tag) = filter.start(name.as_bytes());
            // there are more places than names: an empty one comes
            while let (Some(known), Some(spelling)) = (filter.tags.get_mut(place), filter.spellings.get_mut(place)) {
                if *known == tag && **spelling == *name {
                    break;
                }
                if *known == 0 {
                    *known = tag;
                    *spelling = name.into_boxed_str();
                    break;
                }
                place = filter.after(place);
            }
        }
        filter
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let taken = self.tags.iter().zip(&self.spellings).filter(|(tag, _)| **tag != 0);
        taken.map(|(_, spelling)| spelling.clone().into_string())
    }

    fn has(&self, name: &[u8]) -> bool {
        let (mut place, tag) = self.start(name);
        while let Some(known) = self.tags.get(place).filter(|known| **known != 0) {
            if *known == tag && self.spellings.get(place).is_some_and(|spelling| is_alike(spelling.as_bytes(), name)) {
                return true;
            }
            place = self.after(place);
        }
        false
    }

    /// The place at which the search for a name begins, and its tag.
    fn start(&self, name: &[u8]) -> (usize, u32) {
        let [a, b, c, d, tag @ ..] = hash(name).to_le_bytes();
        let place = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or_default();
        (place & (self.tags.len() - 1), u32::from_le_bytes(tag) | 1)
    }

    const fn after(&self, place: usize) -> usize {
        (place + 1) & (self.tags.len() - 1)
    }
}

fn fold(name: &str) -> String {
    name.replace(':', "_")
}

/// Whether a name has this folded spelling.
fn is_alike(spelling: &[u8], name: &[u8]) -> bool {
    let (spelling_words, spelling_tail) = spelling.as_chunks::<8>();
    let (words, tail) = name.as_chunks::<8>();
    spelling.len() == name.len()
        && spelling_words.iter().zip(words).all(|(a, b)| u64::from_le_bytes(*a) == fold_word(u64::from_le_bytes(*b)))
        && spelling_tail.iter().zip(tail).all(|(a, b)| *a == if *b == b':' { b'_' } else { *b })
}

/// A hash of a name with `:` and `_` alike: of its length and of eight bytes at its beginning, its middle and its end. Metric names that agree in all
/// of these are rare, and cost a comparison only.
fn hash(name: &[u8]) -> u64 {
    const FACTORS: [u64; 3] = [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F, 0xD6E8_FEB8_6659_FD93];
    let middle = name.get((name.len() / 2).saturating_sub(4)..).and_then(<[u8]>::first_chunk);
    let words = match (name.first_chunk(), middle, name.last_chunk()) {
        (Some(first), Some(middle), Some(last)) => [*first, *middle, *last],
        _ => {
            let mut short = [0; 8];
            for (to, from) in short.iter_mut().zip(name) {
                *to = *from;
            }
            [short, [0; 8], [0; 8]]
        }
    };
    let length = u64::try_from(name.len()).unwrap_or_default();
    let mixed = words.iter().zip(FACTORS).fold(length, |mixed, (word, factor)| {
        let product = fold_word(u64::from_le_bytes(*word)).wrapping_mul(factor);
        mixed ^ product ^ product.rotate_right(29)
    });
    let product = mixed.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    product ^ (product >> 32)
}

/// Turns every `:` (0x3A) in eight bytes into `_` (0x5F).
const fn fold_word(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let differs = word ^ (LOW * 0x3A);
    // the high bit of a byte of `zero` is set exactly where `differs` is zero; no carry crosses a byte
    let zero = !(((differs & !HIGH) + !HIGH) | differs) & HIGH;
    word ^ ((zero >> 7) * (0x3A ^ 0x5F))
}

/// A name that was decided on, so that the next line of the same name needs one comparison.
#[derive(Debug, Default)]
pub(crate) struct LastName<'a> {
    name: &'a [u8],
    wanted: bool,
}

impl<'a> LastName<'a> {
    /// Whether a line beginning with a legacy name is wanted; `None` if no name followed by a blank or `{` begins it.
    #[inline]
    pub(crate) fn wanted(&mut self, line: &'a [u8], names: &WantedNames) -> Option<bool> {
        if !self.name.is_empty()
            && let Some((name, rest)) = line.split_at_checked(self.name.len())
            && matches!(rest.first(), Some(b'{' | b' ' | b'\t'))
            && name == self.name
        {
            return Some(self.wanted);
        }
        let end = memchr::memchr3(b'{', b' ', b'\t', line)?;
        let name = line.get(..end).filter(|name| !name.is_empty())?;
        *self = Self { name, wanted: names.wants_bytes(name) };
        Some(self.wanted)
    }

    /// Whether a name that was read is wanted.
    pub(crate) fn wants_name(&self, name: &str, names: &WantedNames) -> bool {
        if name.as_bytes() == self.name { self.wanted } else { names.wants(name) }
    }
}
