//! Reading journals from their folders: of keepers that run and of keepers that are gone, as one, in the order of time.
//!
//! A reader remembers how far it has read each file, through rotation, so that it can be asked again for what is new.
//! Lines that are cut, or written by a newer version, are left out; half a line that is still being written comes
//! with its other half.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Dated;

/// Bytes that are read from one file at once; no file of a keeper is longer.
const AT_ONCE: u64 = 4 * 1024 * 1024;
/// A file that was not seen so often in a row is gone.
const UNSEEN: u32 = 3;

/// A place in each of the files of some folders.
#[derive(Debug, Default)]
pub struct Reader {
    folders: BTreeSet<PathBuf>,
    /// By device and number of the file: how far it is read, and how many looks it was not seen for.
    read: BTreeMap<(u64, u64), (u64, u32)>,
}

impl Reader {
    /// Reads this folder, too. One that is not there yet may come.
    pub fn add(&mut self, folder: PathBuf) {
        self.folders.insert(folder);
    }

    /// Every entry that was not read before, in the order of time.
    ///
    /// # Errors
    /// When a folder or file is there and can't be read.
    pub fn read(&mut self) -> io::Result<Vec<Dated>> {
        let mut entries = Vec::new();
        let mut places = BTreeMap::new();
        for folder in &self.folders {
            for path in journals_in(folder)? {
                let mut file = match File::open(&path) {
                    Ok(file) => file,
                    // Set aside a moment ago: its entries are under the other name.
                    Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                    Err(cause) => return Err(cause),
                };
                let found = file.metadata()?;
                if !found.is_file() {
                    continue;
                }
                let id = (found.dev(), found.ino());
                // A file that is shorter than what was read of it is another one under a number that was free.
                let known = self.read.get(&id).map(|(place, _)| *place).filter(|place| *place <= found.len());
                let (place, _) = places.entry(id).or_insert((known.unwrap_or(0), 0));
                *place += read_from(&mut file, *place, &mut entries)?;
            }
        }
        // Set aside between the look at the folder and that at the file: it is seen again under its other name.
        for (id, (place, looks)) in std::mem::take(&mut self.read) {
            if looks < UNSEEN {
                places.entry(id).or_insert((place, looks + 1));
            }
        }
        self.read = places;
        sort(&mut entries);
        Ok(entries)
    }
}

/// By time; entries of one keeper in their own order.
pub fn sort(entries: &mut [Dated]) {
    entries.sort_by_key(|entry| (entry.at, entry.pid, entry.seq));
}

/// The entries of these files; what can't be read is left out.
pub(super) fn entries_of(paths: &[PathBuf]) -> Vec<Dated> {
    let mut entries = Vec::new();
    for path in paths {
        if let Ok(mut file) = File::open(path) {
            let _ = read_from(&mut file, 0, &mut entries);
        }
    }
    entries
}

fn journals_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(cause) => return Err(cause),
    };
    let mut paths = Vec::new();
    for file in listed {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            paths.push(path);
        }
    }
    // A file that is set aside between the two looks is found under both names, and read once.
    paths.sort();
    Ok(paths)
}

/// Reads whole lines from there on; how many bytes they had.
fn read_from(file: &mut File, from: u64, entries: &mut Vec<Dated>) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(AT_ONCE).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return Ok(0) };
    let lines = bytes[..=end].split(|byte| *byte == b'\n');
    entries.extend(lines.filter_map(|line| serde_json::from_slice::<Dated>(line).ok()));
    Ok(end as u64 + 1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use relatch_core::journal::{Entry, What};

    use super::*;

    fn line(seq: u64) -> String {
        let dated = Dated {
            at: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            upstream: "gmail".into(),
            pid: 1,
            seq,
            entry: Entry::new(What::Away),
        };
        serde_json::to_string(&dated).unwrap() + "\n"
    }

    fn numbers(reader: &mut Reader) -> Vec<u64> {
        reader.read().unwrap().iter().map(|dated| dated.seq).collect()
    }

    #[test]
    fn what_is_new_comes_once_through_half_lines_rotation_and_new_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::default();
        reader.add(dir.path().join("journal"));
        assert!(numbers(&mut reader).is_empty());
        let path = dir.path().join("journal/stdio-0.jsonl");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut file = File::create(&path).unwrap();
        let second = line(2);
        let (half, rest) = second.split_at(20);
        file.write_all((line(1) + half).as_bytes()).unwrap();
        assert_eq!(numbers(&mut reader), [1]);
        file.write_all(rest.as_bytes()).unwrap();
        assert_eq!(numbers(&mut reader), [2]);
        // Set aside with a line that was not read yet, and another file begun.
        file.write_all(line(3).as_bytes()).unwrap();
        std::fs::rename(&path, dir.path().join("journal/stdio-0.old.jsonl")).unwrap();
        std::fs::write(&path, line(4)).unwrap();
        std::fs::write(dir.path().join("journal/serve-0.jsonl"), line(5)).unwrap();
        assert_eq!(numbers(&mut reader), [3, 4, 5]);
        assert!(numbers(&mut reader).is_empty());
    }

    #[test]
    fn a_cut_line_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let text = line(1) + "{\"at\":\"2023-\n" + &line(2) + "\0\0\0\n" + &line(3);
        std::fs::write(dir.path().join("stdio-0.jsonl"), text).unwrap();
        let mut reader = Reader::default();
        reader.add(dir.path().to_owned());
        assert_eq!(numbers(&mut reader), [1, 2, 3]);
    }
}
