//! Where the messages of one queue stand in one segment: pages of entries, in memory while the
//! segment is written, in a file beside it afterwards.
//!
//! ```text
//! index file: magic 8 | version u32 | serial u32 | identity u64 | directory at u64 | groups u32 | directory crc u32 | crc u32
//!             | pages | page tables | directory
//! directory:  groups × (queue u64, flags u32, count u32, bytes u64, min u64, max u64, table at u64, pages u32, table crc u32)
//! table:      pages × (min u64, max u64, at u64, length u32, count u16, 0 u16, crc u32, 0 u32)
//! page:       entries × (number − previous, offset − previous: zigzag varints; length × 2 + reference: varint; segment: varint if reference)
//! ```
//!
//! The file is derived from the segment: a missing or damaged one is made again by scanning.

use crate::arena::Position;
use crate::disk::{File, read_salvaging};
use crate::error::{LogError, Result};
use crate::format::{FORMAT_VERSION, check_version, index_name, u16_at, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"BkbnIdx\n";
const HEADER_BYTES: usize = 44;
const DIRECTORY_ENTRY_BYTES: usize = 56;
const TABLE_ENTRY_BYTES: usize = 40;
/// Entries of a page: what one look-up decodes.
const PAGE_ENTRIES: u16 = 256;
/// A page of late entries ends where the numbers go back, unless it has fewer.
const LATE_PAGE_ENTRIES_MIN: u16 = 32;
/// The longest entry: three varints of 10 bytes and one of 5.
const ENTRY_BYTES_MAX: usize = 35;

/// Which messages a group holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub queue: u64,
    /// Those that a restart forgets.
    pub transient: bool,
}

/// A message of a queue and where its payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub seq: u64,
    pub position: Position,
    pub len: u32,
}

/// The messages of one queue in one segment.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// The lowest and the highest number.
    pub min: u64,
    pub max: u64,
    pub count: u32,
    /// Of all payloads.
    pub bytes: u64,
    pub place: Place,
}

/// Where the pages of a group are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Memory(Runs),
    File(Table),
    /// In the index file, whose directory was not read yet.
    Unopened,
}

/// Where a page table is in an index file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub at: u64,
    pages: u32,
    crc: u32,
}

/// The pages of a group in memory. Copies forward come between new messages with numbers far below theirs; in
/// pages of their own both cover few numbers, so that reading some of them opens few pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs {
    /// Numbers above all earlier ones.
    ascending: Pages,
    /// The others. Whatever is twice in the group stands here the second time, so these pages are the newer ones.
    late: Option<Box<Pages>>,
}

/// Encoded pages and their table.
#[derive(Debug, Clone, Default)]
struct Pages {
    data: Vec<u8>,
    /// The pages before the last one.
    table: Vec<Page>,
    /// The last one, unless it is empty. Not in the table, so that an entry touches less memory: there may be many groups,
    /// each with an entry now and then.
    open: Page,
    /// Number and offset of the last entry.
    last: (u64, u32),
}

/// One page; `at` counts from the beginning of the pages, or of the file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Page {
    pub min: u64,
    pub max: u64,
    at: u64,
    len: u32,
    count: u16,
    /// In memory: among the late ones.
    late: bool,
    crc: u32,
}

impl Page {
    /// Where it begins in its file.
    pub fn file_offset(&self) -> u32 {
        self.at as u32
    }
}

impl Group {
    /// A group of the one entry, in memory.
    pub fn new(home: u32, entry: Entry) -> Self {
        let mut group = Self {
            min: u64::MAX,
            max: 0,
            count: 0,
            bytes: 0,
            place: Place::Memory(Runs::default()),
        };
        group.push(home, entry);
        group
    }

    /// Gives back memory that a group without further entries does not need.
    pub fn shrink(&mut self) {
        if let Place::Memory(runs) = &mut self.place {
            runs.ascending.shrink();
            if let Some(late) = &mut runs.late {
                late.shrink();
            }
        }
    }

    /// Adds an entry to a group in memory. `home` is the segment whose index this is.
    #[inline]
    pub fn push(&mut self, home: u32, entry: Entry) {
        let Place::Memory(runs) = &mut self.place else {
            unreachable!("a sealed segment gets no entries");
        };
        let late = self.count > 0 && entry.seq <= self.max;
        let pages = if late {
            runs.late.get_or_insert_default()
        } else {
            &mut runs.ascending
        };
        if pages.is_full() || late && pages.goes_back(entry.seq) {
            pages.begin(late);
        }
        pages.push(home, entry);
        self.min = self.min.min(entry.seq);
        self.max = self.max.max(entry.seq);
        self.count += 1;
        self.bytes += u64::from(entry.len);
    }
}

impl Runs {
    /// All pages, the newer one of two later.
    pub fn table(&self) -> Vec<Page> {
        let late = self.late.iter().flat_map(|late| late.all());
        self.ascending.all().chain(late).copied().collect()
    }

    /// The bytes of a page of this table.
    pub fn bytes(&self, page: &Page) -> &[u8] {
        match &self.late {
            Some(late) if page.late => late.bytes(page),
            _ => self.ascending.bytes(page),
        }
    }
}

impl Pages {
    fn all(&self) -> impl Iterator<Item = &Page> {
        let open = (self.open.count > 0).then_some(&self.open);
        self.table.iter().chain(open)
    }

    /// Whether an entry needs another page.
    fn is_full(&self) -> bool {
        self.open.count == 0 || self.open.count == PAGE_ENTRIES
    }

    /// Whether the last page is worth an end before a number.
    fn goes_back(&self, seq: u64) -> bool {
        seq < self.last.0 && self.open.count >= LATE_PAGE_ENTRIES_MIN
    }

    #[cold]
    fn begin(&mut self, late: bool) {
        self.last = (0, 0);
        let next = Page {
            min: u64::MAX,
            at: self.data.len() as u64,
            late,
            ..Page::default()
        };
        let before = std::mem::replace(&mut self.open, next);
        if before.count > 0 {
            self.table.push(before);
        }
    }

    #[inline]
    fn push(&mut self, home: u32, entry: Entry) {
        let mut bytes = EntryBytes {
            bytes: [0; ENTRY_BYTES_MAX],
            len: 0,
        };
        let (seq, offset) = (entry.seq, entry.position.offset);
        bytes.put_signed(seq.wrapping_sub(self.last.0) as i64);
        bytes.put_signed(i64::from(offset) - i64::from(self.last.1));
        let reference = entry.position.segment != home;
        bytes.put(u64::from(entry.len) << 1 | u64::from(reference));
        if reference {
            bytes.put(u64::from(entry.position.segment));
        }
        self.data.extend_from_slice(bytes.written());
        self.last = (seq, offset);
        let page = &mut self.open;
        page.min = page.min.min(seq);
        page.max = page.max.max(seq);
        page.count += 1;
        page.len += bytes.len as u32;
    }

    fn shrink(&mut self) {
        self.data.shrink_to_fit();
        self.table.shrink_to_fit();
    }

    fn bytes(&self, page: &Page) -> &[u8] {
        &self.data[page.at as usize..page.at as usize + page.len as usize]
    }
}

/// Decodes a page. `None` for bytes that [`Pages::push`] did not write.
pub(crate) fn decode_page(page: &Page, mut bytes: &[u8], home: u32) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(page.count.min(PAGE_ENTRIES) as usize);
    let (mut seq, mut offset) = (0_u64, 0_i64);
    for _ in 0..page.count {
        seq = seq.wrapping_add(take_signed(&mut bytes)? as u64);
        offset = offset.checked_add(take_signed(&mut bytes)?)?;
        let len = take(&mut bytes)?;
        let mut segment = home;
        if len & 1 == 1 {
            segment = u32::try_from(take(&mut bytes)?).ok()?;
        }
        let offset = u32::try_from(offset).ok()?;
        entries.push(Entry {
            seq,
            position: Position { segment, offset },
            len: u32::try_from(len >> 1).ok()?,
        });
    }
    bytes.is_empty().then_some(entries)
}

/// The bytes of an index file for these groups, which are in memory.
pub(crate) fn encode_file<'a>(
    serial: u32,
    identity: u64,
    groups: impl Iterator<Item = (&'a GroupKey, &'a Group)>,
) -> Vec<u8> {
    let (mut out, mut directory, mut count) = (vec![0; HEADER_BYTES], Vec::new(), 0_u32);
    let mut tables = Vec::new();
    for (key, group) in groups {
        let Place::Memory(pages) = &group.place else {
            continue;
        };
        let all = pages.table();
        let mut table = Vec::with_capacity(all.len() * TABLE_ENTRY_BYTES);
        for page in &all {
            let bytes = pages.bytes(page);
            encode_page_entry(&mut table, page, out.len() as u64, crc32c::crc32c(bytes));
            out.extend_from_slice(bytes);
        }
        directory.push((
            *key,
            group,
            all.len() as u32,
            tables.len() as u64,
            crc32c::crc32c(&table),
        ));
        tables.extend_from_slice(&table);
        count += 1;
    }
    let tables_at = out.len() as u64;
    out.extend_from_slice(&tables);
    let directory_at = out.len();
    for (key, group, pages, table_at, crc) in directory {
        out.extend_from_slice(&key.queue.to_le_bytes());
        out.extend_from_slice(&u32::from(key.transient).to_le_bytes());
        out.extend_from_slice(&group.count.to_le_bytes());
        for value in [group.bytes, group.min, group.max, tables_at + table_at] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&pages.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
    }
    let directory_crc = crc32c::crc32c(&out[directory_at..]);
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    header.extend_from_slice(&serial.to_le_bytes());
    header.extend_from_slice(&identity.to_le_bytes());
    header.extend_from_slice(&(directory_at as u64).to_le_bytes());
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&directory_crc.to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    out[..HEADER_BYTES].copy_from_slice(&header);
    out
}

fn encode_page_entry(out: &mut Vec<u8>, page: &Page, at: u64, crc: u32) {
    for value in [page.min, page.max, at] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&page.len.to_le_bytes());
    out.extend_from_slice(&page.count.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

/// Reads the directory of an index file; `None` when it is no sound index of this segment.
pub(crate) fn read_directory(
    file: &dyn File,
    serial: u32,
    identity: u64,
) -> Result<Option<Vec<(GroupKey, Group)>>> {
    let Some(header) = read(file, 0, HEADER_BYTES)? else {
        return Ok(None);
    };
    let sound = &header[..8] == MAGIC
        && u32_at(&header, HEADER_BYTES - 4) == crc32c::crc32c(&header[..HEADER_BYTES - 4]);
    if !sound || u32_at(&header, 12) != serial || u64_at(&header, 16) != identity {
        return Ok(None);
    }
    check_version(u32_at(&header, 8), &index_name(serial))?;
    let length = u32_at(&header, 32) as usize * DIRECTORY_ENTRY_BYTES;
    let Some(directory) = read(file, u64_at(&header, 24), length)? else {
        return Ok(None);
    };
    if u32_at(&header, 36) != crc32c::crc32c(&directory) {
        return Ok(None);
    }
    let entries = directory.chunks_exact(DIRECTORY_ENTRY_BYTES).map(|entry| {
        let key = GroupKey {
            queue: u64_at(entry, 0),
            transient: u32_at(entry, 8) != 0,
        };
        let group = Group {
            count: u32_at(entry, 12),
            bytes: u64_at(entry, 16),
            min: u64_at(entry, 24),
            max: u64_at(entry, 32),
            place: Place::File(Table {
                at: u64_at(entry, 40),
                pages: u32_at(entry, 48),
                crc: u32_at(entry, 52),
            }),
        };
        (key, group)
    });
    Ok(Some(entries.collect()))
}

/// Reads a group's page table; `None` when it is damaged.
pub(crate) fn read_table(file: &dyn File, table: &Table) -> Result<Option<Vec<Page>>> {
    let length = table.pages as usize * TABLE_ENTRY_BYTES;
    let bytes = read(file, table.at, length)?;
    let sound = bytes.filter(|bytes| crc32c::crc32c(bytes) == table.crc);
    Ok(sound.map(|bytes| {
        let entries = bytes.chunks_exact(TABLE_ENTRY_BYTES);
        entries.map(page_entry).collect()
    }))
}

fn page_entry(bytes: &[u8]) -> Page {
    Page {
        min: u64_at(bytes, 0),
        max: u64_at(bytes, 8),
        at: u64_at(bytes, 16),
        len: u32_at(bytes, 24),
        count: u16_at(bytes, 28),
        late: false,
        crc: u32_at(bytes, 32),
    }
}

/// Reads a page; `None` when it is damaged.
pub(crate) fn read_page(file: &dyn File, page: &Page, home: u32) -> Result<Option<Vec<Entry>>> {
    if page.len as usize > PAGE_ENTRIES as usize * ENTRY_BYTES_MAX {
        return Ok(None);
    }
    let bytes = read(file, page.at, page.len as usize)?;
    let sound = bytes.filter(|bytes| crc32c::crc32c(bytes) == page.crc);
    Ok(sound.and_then(|bytes| decode_page(page, &bytes, home)))
}

/// Reads exactly so much; `None` when the file is shorter.
fn read(file: &dyn File, at: u64, length: usize) -> Result<Option<Vec<u8>>> {
    let failed = |e| LogError::io("read an index", e);
    let size = file.size().map_err(failed)?;
    if at.checked_add(length as u64).is_none_or(|end| end > size) {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    let (read, _) = read_salvaging(file, &mut bytes, at).map_err(failed)?;
    Ok((read == length).then_some(bytes))
}

/// An entry as it is encoded.
struct EntryBytes {
    bytes: [u8; ENTRY_BYTES_MAX],
    len: usize,
}

impl EntryBytes {
    #[inline]
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    #[inline]
    fn put_signed(&mut self, value: i64) {
        self.put((value << 1 ^ value >> 63) as u64);
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = take(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, segment: u32, offset: u32) -> Entry {
        let position = Position { segment, offset };
        Entry {
            seq,
            position,
            len: 140,
        }
    }

    fn runs(group: &Group) -> &Runs {
        match &group.place {
            Place::Memory(runs) => runs,
            _ => unreachable!("nothing sealed it"),
        }
    }

    fn group_of(entries: impl IntoIterator<Item = Entry>) -> Group {
        let mut entries = entries.into_iter();
        let mut group = Group::new(9, entries.next().expect("one"));
        entries.for_each(|entry| group.push(9, entry));
        group
    }

    fn decoded(runs: &Runs) -> Vec<Entry> {
        let table = runs.table();
        let pages = table.iter();
        pages
            .flat_map(|page| decode_page(page, runs.bytes(page), 9).expect("sound"))
            .collect()
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        let wanted: Vec<Entry> = (0..1000_u64)
            .map(|n| Entry {
                seq: n * n * 1_000_003,
                position: Position {
                    segment: if n % 7 == 0 { 3 } else { 9 },
                    offset: (n as u32).wrapping_mul(2_654_435_761) >> 2,
                },
                len: n as u32 * 1_000_003,
            })
            .collect();
        let group = group_of(wanted.iter().copied());
        assert_eq!(decoded(runs(&group)), wanted);
        assert_eq!(runs(&group).table().len(), 4);
        let range = |page: &Page| page.min <= page.max;
        assert!(runs(&group).table().iter().all(range));
    }

    #[test]
    fn copies_between_new_messages_leave_pages_that_cover_few_numbers() {
        let new = |n: u64| entry(1_000_000 + n, 9, 0);
        let copied = |n: u64| entry(n, 9, 1);
        let group = group_of((0..10_000).flat_map(|n| [new(n), copied(n)]));
        let table = runs(&group).table();
        assert!(table.iter().all(|page| page.max - page.min < 256));
        assert!(table.len() < 82, "{}", table.len());
    }

    #[test]
    fn the_second_of_two_with_one_number_stands_behind_the_first() {
        let numbers = [5, 3, 9, 3, 5, 7, 9, 2, 5];
        let entries = numbers.iter().zip(0..);
        let group = group_of(entries.map(|(seq, at)| entry(*seq, 9, at)));
        for number in numbers {
            let same = decoded(runs(&group));
            let places = same.iter().filter(|entry| entry.seq == number);
            assert!(places.is_sorted_by_key(|entry| entry.position.offset));
        }
    }

    #[test]
    fn numbers_that_go_backwards_end_a_page_of_late_ones_that_has_some() {
        let late = (0..50).rev().flat_map(|run| run * 40..(run + 1) * 40);
        let late: Vec<Entry> = late.map(|seq| entry(seq, 9, 0)).collect();
        let group = group_of([entry(u64::MAX, 9, 0)].into_iter().chain(late));
        assert_eq!(runs(&group).table().len(), 1 + 50);
        let few = group_of((0..1000).rev().map(|seq| entry(seq, 9, 0)));
        assert!(runs(&few).table().len() <= 1 + 1000 / 32 + 1);
    }

    #[test]
    fn neighbours_take_few_bytes() {
        let entries = (0..10_000_u32).map(|n| entry(u64::from(n), 9, 4096 + n * 180));
        let group = group_of(entries);
        let bytes = runs(&group).ascending.data.len();
        assert!(bytes < 6 * 10_000, "{bytes}");
    }
}
