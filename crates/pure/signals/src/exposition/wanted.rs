//! The filter that lets a scan skip what nobody asked for.

/// What engines and client libraries append to a family's name.
const SUFFIXES: [&str; 6] = ["", "_bucket", "_sum", "_count", "_total", "_created"];

/// What Ray puts in front of the names of the engine it runs.
const PREFIXES: [&str; 2] = ["", "ray_"];

/// Words of the first-stage filter; 64 names in each on average at 4096 wanted spellings, and far fewer in practice.
const BLOOM_WORDS: usize = 64;

/// A compiled set of metric names.
///
/// Names compare with `:` and `_` alike: the same metric arrives as `vllm:x`, `vllm_x` or `ray_vllm_x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNames {
    filter: Option<Filter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    /// Hash and folded spelling, in order.
    spellings: Vec<(u64, Box<str>)>,
    bloom: Box<[u64; BLOOM_WORDS]>,
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
        Self::compile(names.into_iter().map(|name| fold(name.as_ref())))
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
        Self::compile(spellings)
    }

    fn compile(spellings: impl Iterator<Item = String>) -> Self {
        let mut spellings: Vec<_> = spellings.map(|name| (hash(name.as_bytes()), name.into_boxed_str())).collect();
        spellings.sort_unstable();
        spellings.dedup();
        let mut bloom = Box::new([0_u64; BLOOM_WORDS]);
        for (hash, _) in &spellings {
            let (word, bit) = bloom_place(*hash);
            if let Some(word) = bloom.get_mut(word) {
                *word |= bit;
            }
        }
        Self { filter: Some(Filter { spellings, bloom }) }
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
        let Some(filter) = &self.filter else {
            return true;
        };
        let hash = hash(name);
        let (word, bit) = bloom_place(hash);
        if filter.bloom.get(word).is_none_or(|word| word & bit == 0) {
            return false;
        }
        let from = filter.spellings.partition_point(|(known, _)| *known < hash);
        let same = filter.spellings.get(from..).unwrap_or_default().iter().take_while(|(known, _)| *known == hash);
        same.map(|(_, spelling)| spelling.as_bytes())
            .any(|spelling| spelling.len() == name.len() && spelling.iter().zip(name).all(|(a, b)| *a == fold_byte(*b)))
    }
}

fn fold(name: &str) -> String {
    name.replace(':', "_")
}

const fn fold_byte(byte: u8) -> u8 {
    if byte == b':' { b'_' } else { byte }
}

/// Word and bit of a hash in the first-stage filter.
fn bloom_place(hash: u64) -> (usize, u64) {
    let word = usize::try_from((hash >> 6) & 63).unwrap_or_default();
    (word, 1 << (hash & 63))
}

/// A hash of a name with `:` and `_` alike, eight bytes at a time.
fn hash(name: &[u8]) -> u64 {
    let (words, tail) = name.as_chunks::<8>();
    let mut last = [0_u8; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    let mut state = u64::try_from(name.len()).unwrap_or_default();
    for word in words.iter().chain(std::iter::once(&last)) {
        state = (state ^ fold_word(u64::from_le_bytes(*word))).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        state ^= state >> 29;
    }
    state
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
    pub(crate) fn wanted(&mut self, line: &'a [u8], names: &WantedNames) -> Option<bool> {
        if !self.name.is_empty()
            && let Some(rest) = line.strip_prefix(self.name)
            && matches!(rest.first(), Some(b'{' | b' ' | b'\t'))
        {
            return Some(self.wanted);
        }
        let end = memchr::memchr3(b'{', b' ', b'\t', line)?;
        let name = line.get(..end).filter(|name| !name.is_empty())?;
        *self = Self { name, wanted: names.wants_bytes(name) };
        Some(self.wanted)
    }
}

/// Whether a name that was unescaped is wanted.
pub(crate) fn wants_name(names: &WantedNames, name: &str) -> bool {
    names.is_all() || names.wants(name)
}
