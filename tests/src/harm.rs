//! Files of a node that does not run, harmed.

use anyhow::{Context, Result, ensure};
use rand::Rng;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What can happen to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// One bit is another.
    Flip,
    /// The end is gone, from some byte on.
    Truncate,
    /// The file is gone.
    Delete,
}

/// Harms `file`, within its first `used` bytes where not all of it is in use.
///
/// Returns what was done, for people.
///
/// # Errors
/// When the file can't be changed, or has no bytes to change.
pub fn harm(file: &Path, harm: Harm, used: Option<u64>, rng: &mut impl Rng) -> Result<String> {
    let used = used.map_or_else(|| fs::metadata(file).map(|file| file.len()), Ok)?;
    ensure!(used > 0, "{} is empty", file.display());
    let at = rng.random_range(0..used);
    let name = file.display();
    match harm {
        Harm::Flip => {
            let bit = rng.random_range(0..8);
            flip(file, at, bit)?;
            Ok(format!("bit {bit} of byte {at} of {name} flipped"))
        }
        Harm::Truncate => {
            File::options().write(true).open(file)?.set_len(at)?;
            Ok(format!("{name} cut to {at} bytes"))
        }
        Harm::Delete => {
            fs::remove_file(file)?;
            Ok(format!("{name} deleted"))
        }
    }
}

/// Flips one bit.
///
/// # Errors
/// When the file can't be changed.
pub fn flip(file: &Path, at: u64, bit: u8) -> Result<()> {
    let file = File::options().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ (1 << bit)], at)?)
}

/// The files below `folder` whose name `wanted` takes, sorted.
///
/// # Errors
/// When a folder can't be read.
pub fn files(folder: &Path, wanted: impl Fn(&str) -> bool + Copy) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, wanted)?);
        } else if path
            .file_name()
            .is_some_and(|name| wanted(&name.to_string_lossy()))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The segment of a log folder that has most in it, and where its last used block ends.
///
/// # Errors
/// When there is none.
pub fn fullest_segment(log: &Path) -> Result<(PathBuf, u64)> {
    let mut best = None;
    for path in files(log, |name| name.ends_with(".segment"))? {
        let bytes = fs::read(&path)?;
        let last = bytes
            .chunks(4096)
            .rposition(|block| block.iter().any(|byte| *byte != 0));
        let used = last.map_or(0, |last| (last as u64 + 1) * 4096);
        if best.as_ref().is_none_or(|(_, most)| used > *most) {
            best = Some((path, used));
        }
    }
    best.context("a log has a segment")
}

/// Copies a folder and all below it.
///
/// # Errors
/// When the system refuses.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    // What a log writes ahead are zeros: they need not take room again.
    let status = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .status()?;
    ensure!(
        status.success(),
        "cp -a {} {}",
        from.display(),
        to.display()
    );
    Ok(())
}
