//! One command with its output as it comes, or a shell on the console.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use harness::protocol::{Event, Plan};

use crate::channel::Channel;
use crate::group::Group;
use crate::run::{RESULTS, environment};

const SCRATCH: &str = "/scratch/command";

/// Files larger than this stay in the guest: the way to the host is a serial port.
const FILE_LIMIT: u64 = 8 << 20;

pub(crate) fn run(channel: &Channel, plan: &Plan, words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("the plan has an empty command")?;
    fs::create_dir_all(SCRATCH)?;
    fs::create_dir_all(RESULTS)?;
    let group = Group::new("command")?;
    let mut command = group.command(program);
    environment(&mut command, plan, Path::new(SCRATCH));
    let (mut output, writer) = std::io::pipe()?;
    let (mut errors, errors_writer) = std::io::pipe()?;
    command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors_writer);
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    drop(command);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| forward(channel, &mut output, false));
        scope.spawn(|| forward(channel, &mut errors, true));
        let status = child.wait();
        // A daemon that it left would keep the pipes open for ever.
        group.kill(std::time::Duration::from_secs(15));
        status
    })
    .context("cannot wait for the command")?;
    send_files(channel, Path::new(RESULTS))?;
    channel.send(Event::Exit { code: exit_code(status) });
    Ok(())
}

pub(crate) fn shell(channel: &Channel, plan: &Plan, rows: u16, columns: u16, term: &str) -> Result<()> {
    fs::create_dir_all(SCRATCH)?;
    let console =
        File::options().read(true).write(true).open("/dev/ttyS0").context("cannot open the console")?;
    let size = [rows.to_string(), columns.to_string()];
    let _sized = std::process::Command::new("stty")
        .args(["rows", &size[0], "cols", &size[1]])
        .stdin(console.try_clone()?)
        .status();
    let group = Group::new("shell")?;
    // `setsid --ctty` gives the shell a controlling terminal, so that Ctrl-C works.
    let mut command = group.command("setsid");
    environment(&mut command, plan, Path::new(SCRATCH));
    command
        .args(["--ctty", "--wait", "bash", "--norc"])
        .env("TERM", term)
        .env("PS1", "thinlayer-vm:\\w# ")
        .stdin(console.try_clone()?)
        .stdout(console.try_clone()?)
        .stderr(console);
    let status = command.status().context("cannot start a shell")?;
    channel.send(Event::Exit { code: exit_code(status) });
    Ok(())
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

/// Passes on whole characters, as they come.
fn forward(channel: &Channel, from: &mut impl Read, stderr: bool) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        pending.extend_from_slice(&buffer[..length]);
        let whole = whole_characters(&pending);
        let rest = pending.split_off(whole);
        let text = String::from_utf8_lossy(&pending).into_owned();
        pending = rest;
        if !text.is_empty() {
            channel.send(Event::Output { stderr, text });
        }
    }
    if !pending.is_empty() {
        channel.send(Event::Output { stderr, text: String::from_utf8_lossy(&pending).into_owned() });
    }
}

/// How many bytes there are before a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

fn send_files(channel: &Channel, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            send_files(channel, &path)?;
        } else if kind.is_file() && entry.metadata()?.len() <= FILE_LIMIT {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let path = path.strip_prefix(RESULTS).unwrap_or(&path).to_string_lossy().into_owned();
            channel.send(Event::File { path, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn a_character_is_not_cut() {
        let text = "a€";
        for (cut, whole) in [(1, 1), (2, 1), (3, 1), (4, 4)] {
            assert_eq!(whole_characters(&text.as_bytes()[..cut]), whole, "{cut}");
        }
        assert_eq!(whole_characters(b""), 0);
        assert_eq!(whole_characters(&[0x80, 0x80, 0x80, 0x80]), 4, "not UTF-8 at all is passed on");
    }
}
