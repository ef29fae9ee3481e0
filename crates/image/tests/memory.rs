//! Large sources in little memory. The one test of this file, since it measures its whole process.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::io::{Read, Write};
use thinlayer_image::{
    Addition, Assembler, Compression, LayoutWriter, NewImage, Platform, ReadOptions, Source, SplitOptions,
    Splitter, new_config,
};

const FILES: usize = 30_000;
const LARGE: usize = 64 << 20;
const MIB: u64 = 1 << 20;

/// The most memory that the process had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A tar of many small files and a large one, never in memory as a whole.
fn tar() -> impl Read {
    let header = |name: String, size: usize| {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..108].copy_from_slice(b"0000644\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    };
    let small = (0..FILES).map(move |at| {
        let mut bytes = header(format!("folder-{}/file-{at}", at / 100), 5).to_vec();
        bytes.extend_from_slice(b"small");
        bytes.resize(1024, 0);
        bytes
    });
    let parts =
        small.chain([header("large".into(), LARGE).to_vec()]).chain((0..LARGE / 4096).map(|_| vec![7; 4096]));
    Parts { parts: parts.chain([vec![0; 1024]]), current: Vec::new(), at: 0 }
}

struct Parts<I> {
    parts: I,
    current: Vec<u8>,
    at: usize,
}

impl<I: Iterator<Item = Vec<u8>>> Read for Parts<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.current.len() {
            self.current = self.parts.next().unwrap_or_default();
            self.at = 0;
        }
        let read = buffer.len().min(self.current.len() - self.at);
        buffer[..read].copy_from_slice(&self.current[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

#[test]
fn a_large_layer_goes_in_and_out_in_little_memory() {
    let place = tempfile::tempdir().unwrap();
    let layout = place.path().join("layout");
    let mut writer = LayoutWriter::create(&layout).unwrap();
    let layer = writer.layer(tar(), Compression::Zstd, None).unwrap();
    let added = Addition {
        diff_id: layer.diff_id,
        created: std::time::UNIX_EPOCH,
        created_by: "x".into(),
        comment: String::new(),
    };
    let config = new_config(None, &Platform::host(), None, &[added]).unwrap();
    writer.image(&NewImage { names: &[], config: &config, layers: &[layer], manifest: None }).unwrap();
    writer.finish().unwrap();

    let image = Source::open(&layout, ReadOptions::default()).unwrap().images().unwrap().remove(0);
    let record = place.path().join("record");
    let target = std::io::BufWriter::new(std::fs::File::create(&record).unwrap());
    let mut splitter = Splitter::new(image.layers[0].open_ahead().unwrap(), target, SplitOptions::default());
    std::io::copy(&mut splitter, &mut std::io::sink()).unwrap();
    let (split, mut target) = splitter.finish().unwrap();
    target.flush().unwrap();
    assert_eq!((split.files, split.embed.len()), (FILES as u64 + 1, 0));

    let tree = |name: &[u8]| -> std::io::Result<Box<dyn Read + Send>> {
        if name == b"large" {
            Ok(Box::new(std::io::repeat(7).take(LARGE as u64)))
        } else {
            Ok(Box::new(&b"small"[..]))
        }
    };
    let record = std::fs::File::open(&record).unwrap();
    let mut back = Assembler::new(record, tree, Some(image.layers[0].diff_id)).unwrap();
    // Its end is given only if the whole has the layer's diff id.
    let bytes = std::io::copy(&mut back, &mut std::io::sink()).unwrap();
    assert!(bytes > LARGE as u64);
    assert!(peak() < 32 * MIB, "{} bytes", peak());
}
