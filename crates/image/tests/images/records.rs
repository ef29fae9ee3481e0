//! Tars taken apart and put together: by hand, at random, and as GNU tar, bsdtar and Python write them.

use crate::support::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::{self, Read};
use thinlayer_image::{Assembler, Digest, Error, ErrorKind, Split, SplitOptions, Splitter, changed_files};

/// Gives a few bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.len().min(self.1).min(buffer.len());
        buffer[..read].copy_from_slice(&self.0[..read]);
        self.0 = &self.0[read..];
        Ok(read)
    }
}

pub(crate) fn split_with(
    tar: &[u8],
    embed: BTreeSet<Vec<u8>>,
    piece: usize,
) -> Result<(Split, Vec<u8>), Error> {
    let options = SplitOptions { embed, ..SplitOptions::default() };
    let mut splitter = Splitter::new(Pieces(tar, piece), Vec::new(), options);
    let mut passed = Vec::new();
    splitter.read_to_end(&mut passed).unwrap();
    assert!(passed == tar, "whatever it is, it passes");
    splitter.finish()
}

/// The record; of a second reading, if the first says so.
fn record(tar: &[u8], piece: usize) -> Result<Vec<u8>, Error> {
    let (split, record) = split_with(tar, BTreeSet::new(), piece)?;
    assert_eq!(split.bytes, tar.len() as u64);
    if split.embed.is_empty() {
        return Ok(record);
    }
    let (again, record) = split_with(tar, split.embed, piece)?;
    assert_eq!(again.embed, BTreeSet::new(), "twice is enough");
    Ok(record)
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn clean(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

fn put_together(record: &[u8], model: Model, expected: Option<Digest>) -> Result<Vec<u8>, Error> {
    let tree = move |name: &[u8]| -> io::Result<Box<dyn Read + Send>> {
        match model.get(&clean(name)) {
            Some(content) => Ok(Box::new(io::Cursor::new(content.clone()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    };
    let mut all = Vec::new();
    Assembler::new(record, tree, expected)?.read_to_end(&mut all).map_err(Error::from_stream)?;
    Ok(all)
}

fn model(files: &[(&str, &str)]) -> Model {
    files.iter().map(|(name, content)| (name.as_bytes().to_vec(), content.as_bytes().to_vec())).collect()
}

#[test]
fn a_tar_comes_back_from_record_and_tree() {
    let tar = tar(&[
        ("./", Kind::Folder),
        ("./etc/", Kind::Folder),
        ("./etc/a", Kind::File(b"content")),
        ("./etc/empty", Kind::File(b"")),
        ("./etc/link", Kind::Symlink("a")),
        ("./etc/hard", Kind::HardLink("./etc/a")),
        ("./etc/.wh.gone", Kind::File(b"")),
    ]);
    let (split, record) = split_with(&tar, BTreeSet::new(), 7).unwrap();
    assert_eq!((split.files, split.embed.len()), (1, 0));
    let tree = model(&[("etc/a", "content")]);
    assert_eq!(put_together(&record, tree, Some(Digest::of(&tar))).unwrap(), tar);
    assert!(
        !String::from_utf8_lossy(&plain(&record)).contains("Y29udGVudA"),
        "the content is not in the record"
    );
}

fn plain(record: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    thinlayer_image::Decompressed::new(record).unwrap().read_to_end(&mut all).unwrap();
    all
}

/// A record as Docker wrote it: not merged, with positions and nulls.
#[test]
fn dockers_own_record_is_read() {
    let tar = tar(&[("etc/", Kind::Folder), ("etc/a", Kind::File(b"123456789"))]);
    let encoded = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let lines = [
        format!(r#"{{"type":2,"payload":"{}","position":0}}"#, encoded(&tar[..512])),
        r#"{"type":1,"name":"etc/","payload":null,"position":1}"#.into(),
        format!(r#"{{"type":2,"payload":"{}","position":2}}"#, encoded(&tar[512..1024])),
        r#"{"type":1,"name":"etc/a","size":9,"payload":"uQlWx3WkEAE=","position":3}"#.into(),
        format!(r#"{{"type":2,"payload":"{}","position":4}}"#, encoded(&tar[1033..2048])),
        format!(r#"{{"type":2,"payload":"{}","position":5}}"#, encoded(&tar[2048..])),
        r#"{"type":2,"payload":"","position":6}"#.into(),
    ];
    let record = lines.join("\n") + "\n";
    for record in [record.clone().into_bytes(), gzip(record.as_bytes())] {
        let tree = model(&[("etc/a", "123456789")]);
        assert_eq!(put_together(&record, tree, Some(Digest::of(&tar))).unwrap(), tar);
    }
}

#[test]
fn a_file_that_changed_is_named() {
    let tar = layer("a", "content");
    let record = record(&tar, 4096).unwrap();
    for (tree, why) in [
        (model(&[]), "is not there"),
        (model(&[("etc/a", "kontent")]), "another"),
        (model(&[("etc/a", "conten")]), "shorter"),
        (model(&[("etc/a", "content!")]), "longer"),
    ] {
        let error = put_together(&record, tree, Some(Digest::of(&tar))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);
        assert!(error.to_string().contains("etc/a") && error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_record_that_is_damaged_or_of_another_layer_is_told() {
    let tar = layer("a", "content");
    let good = record(&tar, 4096).unwrap();
    let tree = || model(&[("etc/a", "content")]);
    let mut cut = 0;
    for length in 0..good.len() {
        let error = put_together(&good[..length], tree(), Some(Digest::of(&tar))).unwrap_err();
        assert!(matches!(error, Error::DamagedRecord { .. }), "{length}: {error}");
        cut += 1;
    }
    assert!(cut > 100);
    let error = put_together(&good, tree(), Some(Digest::of(b"another"))).unwrap_err();
    assert!(error.to_string().contains("diff id"), "{error}");
    let bomb = vec![b'x'; 65 << 20];
    assert!(put_together(&bomb, tree(), None).unwrap_err().to_string().contains("67108864"));
}

#[test]
fn what_a_tree_cannot_give_back_is_in_the_record() {
    let mut sparse = header("sparse", b'S', 512, "");
    sparse[482] = 1;
    let sparse = [&sealed(sparse)[..], &[0; 512], &[2; 512]].concat();
    let pax = [entry("x", &Kind::File(b"22 GNU.sparse.major=1\n")), entry("map", &Kind::File(b"1\n0\n4\n"))]
        .concat();
    let pax_header = header("x", b'x', 22, "");
    let pax = [&pax_header[..], &pax[512..]].concat();
    let odd = [
        entry("a/../b", &Kind::File(b"up")),
        entry("slash/", &Kind::File(b"slash")),
        entry("etc/.wh.x", &Kind::File(b"wh")),
    ];
    let tar =
        [&sparse[..], &pax, &odd.concat(), &entry("plain", &Kind::File(b"plain")), &[0; 1024], b"and more"]
            .concat();
    let tree = model(&[("plain", "plain")]);
    assert_eq!(put_together(&record(&tar, 100).unwrap(), tree, Some(Digest::of(&tar))).unwrap(), tar);
}

#[test]
fn names_that_come_twice_are_embedded_the_second_time() {
    let tar = tar(&[
        ("a", Kind::File(b"first")),
        ("./a", Kind::File(b"second")),
        ("dir/", Kind::Folder),
        ("dir/in", Kind::File(b"in")),
        ("dir", Kind::Symlink("a")),
        ("gone", Kind::File(b"gone")),
        (".wh.gone", Kind::File(b"")),
        ("implied/in", Kind::File(b"in")),
        (".wh.implied", Kind::File(b"")),
        ("stays/", Kind::Folder),
        ("stays/", Kind::Folder),
        ("stays/x", Kind::File(b"x")),
    ]);
    let (split, _) = split_with(&tar, BTreeSet::new(), 512).unwrap();
    let names: Vec<&[u8]> = split.embed.iter().map(Vec::as_slice).collect();
    assert_eq!(names, [&b"a"[..], b"dir", b"gone", b"implied"]);
    let tree = model(&[("a", "second"), ("stays/x", "x")]);
    let record = record(&tar, 512).unwrap();
    assert_eq!(put_together(&record, tree, Some(Digest::of(&tar))).unwrap(), tar);
    // Docker's reader refuses records that name a file twice.
    let text = String::from_utf8(plain(&record)).unwrap();
    assert_eq!(text.matches(r#""name":"stays/""#).count(), 1, "{text}");
}

#[test]
fn what_the_tree_lacks_can_be_found_and_embedded() {
    let tar = tar(&[("lib/a", Kind::File(b"one")), ("usr/lib/a", Kind::File(b"two"))]);
    // `lib` is a link to `usr/lib` in a layer below: both names are one file.
    let tree = |name: &[u8]| -> io::Result<Box<dyn Read + Send>> {
        assert!(name.ends_with(b"lib/a"));
        Ok(Box::new(&b"two"[..]))
    };
    let (_, first) = split_with(&tar, BTreeSet::new(), 512).unwrap();
    let embed = changed_files(&first[..], tree).unwrap();
    assert_eq!(embed, BTreeSet::from([b"lib/a".to_vec()]));
    let (_, second) = split_with(&tar, embed, 512).unwrap();
    assert_eq!(changed_files(&second[..], tree).unwrap(), BTreeSet::new());
    let mut all = Vec::new();
    Assembler::new(&second[..], tree, Some(Digest::of(&tar))).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all, tar);
}

#[test]
fn a_tar_that_ends_too_early_or_is_too_long_for_a_record_passes_all_the_same() {
    let tar = layer("a", &"x".repeat(2000));
    let error = split_with(&tar[..1500], BTreeSet::new(), 512).unwrap_err();
    assert!(error.to_string().contains("etc/a"), "{error}");
    let options = SplitOptions { limit: 1000, ..SplitOptions::default() };
    let mut splitter = Splitter::new(&tar[..], Vec::new(), options);
    let mut passed = Vec::new();
    splitter.read_to_end(&mut passed).unwrap();
    assert_eq!(passed, tar);
    assert_eq!(splitter.finish().unwrap_err().kind(), ErrorKind::TooLarge);
}

/// One entry of a random tar, and what it does to a tree.
#[derive(Clone, Debug)]
struct Random {
    name: String,
    flag: u8,
    content: Vec<u8>,
    by: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Ustar,
    Gnu,
    Pax,
}

impl Random {
    fn bytes(&self) -> Vec<u8> {
        let content = if self.flag == b'0' { &self.content[..] } else { &[] };
        let padded = |mut bytes: Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes
        };
        let extra = match self.by {
            How::Ustar => Vec::new(),
            How::Gnu => {
                let name = format!("{}\0", self.name);
                padded([&header("././@LongLink", b'L', name.len() as u64, "")[..], name.as_bytes()].concat())
            }
            How::Pax => {
                let record = |key: &str, value: &str| {
                    let rest = key.len() + value.len() + 3;
                    let length =
                        (rest + 1..).find(|length| length.to_string().len() + rest == *length).unwrap();
                    format!("{length} {key}={value}\n")
                };
                let size = content.len().to_string();
                let records = record("path", &self.name)
                    + &record("size", &size)
                    + &record("SCHILY.xattr.user.a", "x\ny");
                padded(
                    [&header("PaxHeader", b'x', records.len() as u64, "")[..], records.as_bytes()].concat(),
                )
            }
        };
        let name = if matches!(self.by, How::Ustar) { &self.name } else { "other" };
        // The size of what follows a PAX header is taken from there.
        let stated = if matches!(self.by, How::Pax) { 0 } else { content.len() as u64 };
        let own = [&header(name, self.flag, stated, "a")[..], content].concat();
        [extra, padded(own)].concat()
    }

    fn unpack(&self, tree: &mut Model) {
        let name = clean(self.name.as_bytes());
        let remove = |tree: &mut Model, gone: &[u8]| {
            let below = [gone, b"/"].concat();
            tree.retain(|name, _| name != gone && !name.starts_with(&below));
        };
        let slash = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        if let Some(gone) = name[slash..].strip_prefix(b".wh.") {
            return remove(tree, &[&name[..slash], gone].concat());
        }
        if self.flag == b'5' {
            tree.remove(&name);
            return;
        }
        remove(tree, &name);
        if self.flag == b'0' {
            tree.insert(name, self.content.clone());
        }
    }
}

fn random() -> impl Strategy<Value = Random> {
    let name = prop_oneof![
        8 => "(\\./)?[a-c](/[a-c]){0,2}",
        1 => "[a-c]/\\.wh\\.[a-c]",
        1 => "[a-zé]{1,40}",
    ];
    let flag =
        prop_oneof![6 => Just(b'0'), 2 => Just(b'5'), 1 => Just(b'2'), 1 => Just(b'1'), 1 => Just(b'6')];
    let content = prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..1200)];
    let by = prop_oneof![Just(How::Ustar), Just(How::Gnu), Just(How::Pax)];
    (name, flag, content, by).prop_map(|(name, flag, content, by)| Random { name, flag, content, by })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_tars_come_back(
        entries in proptest::collection::vec(random(), 0..12),
        end in 0_usize..5000,
        rest in proptest::collection::vec(any::<u8>(), 0..40),
        piece in 1_usize..3000,
    ) {
        let mut tar: Vec<u8> = entries.iter().flat_map(Random::bytes).collect();
        tar.resize(tar.len() + end, 0);
        tar.extend(rest);
        let mut tree = Model::new();
        // A file below something that is none cannot be unpacked: such tars are of no layer.
        let mut kinds = BTreeMap::new();
        for entry in &entries {
            let name = clean(entry.name.as_bytes());
            prop_assume!(name.iter().enumerate().all(|(at, byte)| *byte != b'/' || kinds.get(&name[..at]).is_none_or(|kind| *kind == b'5')));
            entry.unpack(&mut tree);
            kinds.insert(name, entry.flag);
        }
        let record = record(&tar, piece).unwrap();
        let back = put_together(&record, tree, Some(Digest::of(&tar))).unwrap();
        prop_assert!(back == tar);
    }

    #[test]
    fn anything_comes_back_or_is_told_to_end_early(
        entries in proptest::collection::vec(random(), 1..4),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut tar: Vec<u8> = entries.iter().flat_map(Random::bytes).collect();
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        tar.truncate(cut.index(tar.len() + 1));
        match split_with(&tar, BTreeSet::new(), 1000) {
            Err(error) => prop_assert!(error.to_string().contains("the tar ends"), "{}", error),
            Ok((_, record)) => {
                let mut contents = contents(&tar, &plain(&record)).into_iter();
                let tree = move |_: &[u8]| -> io::Result<Box<dyn Read + Send>> {
                    Ok(Box::new(io::Cursor::new(contents.next().unwrap())))
                };
                let mut all = Vec::new();
                Assembler::new(&record[..], tree, Some(Digest::of(&tar))).unwrap().read_to_end(&mut all).unwrap();
                prop_assert!(all == tar);
            }
        }
    }
}

/// The contents that a record leaves out, by their places: everything else must stand in the record as it stands in the tar.
fn contents(tar: &[u8], record: &[u8]) -> Vec<Vec<u8>> {
    let mut left = tar;
    let mut contents = Vec::new();
    for line in String::from_utf8(record.to_vec()).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["type"] == 2 {
            let text = line["payload"].as_str().unwrap();
            let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
            left = left.strip_prefix(&bytes[..]).expect("the record holds what the tar holds");
        } else if let Some(size) = line["size"].as_u64() {
            let (content, rest) = left.split_at(usize::try_from(size).unwrap());
            contents.push(content.to_vec());
            left = rest;
        }
    }
    assert!(left.is_empty(), "the record ends where the tar ends");
    contents
}
