//! A small library that is preloaded into nodes: see `shim.c`.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library into `folder`.
///
/// # Errors
/// When there is no C compiler; every script that builds Ordo installs one.
pub fn compile(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, include_str!("shim.c"))?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cc: {said}");
    Ok(library)
}

/// The environment that preloads the library with one of its settings.
#[must_use]
pub fn preload(library: &Path, setting: &str, file: &Path) -> Vec<(String, String)> {
    vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        (setting.to_owned(), file.display().to_string()),
    ]
}
