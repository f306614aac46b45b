//! The kernels for GPUs: one fatbin a file, by nvcc, with machine code for each target of `COGVIDEOX_CUDA_ARCHS`.
//!
//! A fatbin is kept and made again when its file, a header, the compiler or its arguments change. What
//! the assembler says about it is kept too: spilled registers, memory used as registers and serialised matrix
//! instructions become cargo's warnings, also in builds that compile nothing.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::{Result, files, read, texts, write};

/// A100; RTX 30; RTX 40 and L40; H100 and H200; RTX 50. Newer GPUs compile the last one's PTX when they load it.
const DEFAULT_TARGETS: &str = "80,86,89,90a,120";
/// Earlier compilers lack targets and flags that are used here.
const LEAST_NVCC_MAJOR: u32 = 13;

/// Compiles what is not up to date in `kept`, and writes `fatbins.rs` to `out`: `FATBINS`, each file's name with its bytes.
pub(crate) fn build(sources: &[PathBuf], kept: &Path, out: &Path) -> Result<()> {
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "COGVIDEOX_CUDA_ARCHS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let compiler = Compiler::find()?;
    let headers = texts(&files(Path::new("kernels"), &["h", "cuh"])?)?;
    let fatbins = sources
        .iter()
        .map(|source| Fatbin::new(source, kept, &compiler, &headers))
        .collect::<Result<Vec<_>>>()?;
    compile(&compiler, fatbins.iter().filter(|fatbin| !fatbin.is_current()).collect())?;
    for fatbin in &fatbins {
        for warning in warnings(&read(&fatbin.log)?) {
            println!("cargo:warning={}: {warning}", fatbin.source.display());
        }
    }
    write(&out.join("fatbins.rs"), &list(&fatbins))
}

/// An nvcc and the arguments that all files get.
struct Compiler {
    nvcc: PathBuf,
    version: String,
    arguments: Vec<String>,
}

impl Compiler {
    /// The one that `NVCC`, `CUDA_HOME`, `CUDA_PATH` or `PATH` names, or the one of an ordinary installation.
    fn find() -> Result<Self> {
        let in_home = |variable| std::env::var_os(variable).map(|home| PathBuf::from(home).join("bin/nvcc"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let nvcc = std::env::var_os("NVCC").map(PathBuf::from).or_else(|| {
            [in_home("CUDA_HOME"), in_home("CUDA_PATH")]
                .into_iter()
                .flatten()
                .chain(std::env::split_paths(&path).map(|dir| dir.join("nvcc")))
                .chain([PathBuf::from("/usr/local/cuda/bin/nvcc")])
                .find(|nvcc| nvcc.is_file())
        });
        let nvcc = nvcc.ok_or(
            "feature cuda: no nvcc in CUDA_HOME, PATH or /usr/local/cuda; install CUDA 13, or run \
             eval \"$(server/device/toolkit.sh)\" for the compiler alone",
        )?;
        let output = Command::new(&nvcc).arg("--version").output();
        let output = output.map_err(|error| format!("{}: cannot be run: {error}", nvcc.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let release =
            version.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("no version");
        let major = release.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        if major < LEAST_NVCC_MAJOR {
            return Err(format!(
                "{}: expected nvcc {LEAST_NVCC_MAJOR}.0 or newer, found {release}",
                nvcc.display()
            ));
        }
        let targets = std::env::var("COGVIDEOX_CUDA_ARCHS").unwrap_or_else(|_| DEFAULT_TARGETS.to_owned());
        // No --use_fast_math: each kernel chooses where it approximates.
        let mut arguments = ["-fatbin", "-std=c++17", "-O3", "--compress-mode=size", "-Xptxas", "-v"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(code_arguments(&targets)?);
        Ok(Self { nvcc, version, arguments })
    }

    /// Makes one fatbin, with so many targets at once.
    fn run(&self, fatbin: &Fatbin, threads: usize) -> Result<()> {
        // Without a key it counts as not made, should this be cut off.
        if fatbin.key_file.exists() {
            fs::remove_file(&fatbin.key_file)
                .map_err(|error| format!("{}: {error}", fatbin.key_file.display()))?;
        }
        let output = Command::new(&self.nvcc)
            .args(&self.arguments)
            .arg(format!("--threads={threads}"))
            .arg("-o")
            .args([&fatbin.image, &fatbin.source])
            .output()
            .map_err(|error| format!("{}: cannot be run: {error}", self.nvcc.display()))?;
        let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("{}: nvcc failed, {}\n{log}", fatbin.source.display(), output.status));
        }
        write(&fatbin.log, &log)?;
        write(&fatbin.key_file, &fatbin.key)
    }
}

/// `80,90a` as nvcc's arguments. The first and the last that are no GPU's alone (such as 90a) are also given
/// as PTX, for GPUs between them (B200) and to come.
fn code_arguments(targets: &str) -> Result<Vec<String>> {
    let targets: Vec<&str> = targets.split(',').map(str::trim).collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(odd) = targets.iter().find(|target| !is_number(target.trim_end_matches(['a', 'f']))) {
        return Err(format!(
            "COGVIDEOX_CUDA_ARCHS: expected compute capabilities such as {DEFAULT_TARGETS}, found {odd:?}"
        ));
    }
    let portable = [
        targets.iter().position(|target| is_number(target)),
        targets.iter().rposition(|target| is_number(target)),
    ];
    let code = |(index, target): (usize, &&str)| {
        let ptx = if portable.contains(&Some(index)) { format!(",compute_{target}") } else { String::new() };
        ["-gencode".to_owned(), format!("arch=compute_{target},code=[sm_{target}{ptx}]")]
    };
    Ok(targets.iter().enumerate().flat_map(code).collect())
}

/// One file's machine code, and what belongs to it.
struct Fatbin {
    source: PathBuf,
    image: PathBuf,
    /// What compiler and assembler said.
    log: PathBuf,
    key_file: PathBuf,
    /// Of all that the image is made from.
    key: String,
}

impl Fatbin {
    fn new(source: &Path, out: &Path, compiler: &Compiler, headers: &str) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        (&compiler.version, &compiler.arguments, headers, read(source)?).hash(&mut hasher);
        let stem = source.file_stem().unwrap_or_default();
        let file = |extension| out.join(stem).with_extension(extension);
        Ok(Self {
            source: source.to_owned(),
            image: file("fatbin"),
            log: file("log"),
            key_file: file("key"),
            key: format!("{:016x}", hasher.finish()),
        })
    }

    fn is_current(&self) -> bool {
        self.image.exists()
            && self.log.exists()
            && fs::read_to_string(&self.key_file).is_ok_and(|key| key == self.key)
    }
}

/// Compiles these on as many cores as cargo allows: files side by side, and with fewer files their targets.
fn compile(compiler: &Compiler, mut outdated: Vec<&Fatbin>) -> Result<()> {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).max(1);
    let workers = jobs.min(outdated.len());
    if workers == 0 {
        return Ok(());
    }
    let threads = jobs.div_ceil(outdated.len());
    // Long files take longest: they are popped first.
    outdated.sort_by_key(|fatbin| fs::metadata(&fatbin.source).map_or(0, |file| file.len()));
    let waiting = Mutex::new(outdated);
    let failures = Mutex::new(Vec::new());
    let next = || waiting.lock().ok()?.pop();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(fatbin) = next() {
                    if let (Err(failure), Ok(mut failures)) = (compiler.run(fatbin, threads), failures.lock())
                    {
                        failures.push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().map_err(|_| "a thread that ran nvcc panicked")?;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// What in nvcc's log deserves a look: warnings, and for each kernel and target the memory it uses for want of
/// registers.
fn warnings(log: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut kernel = "";
    let mut stack = "";
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function ") {
            kernel = rest;
            stack = "";
        } else if line.contains("bytes stack frame") {
            let clean = line.split(", ").all(|part| part.trim_start().starts_with("0 "));
            stack = if clean { "" } else { line.trim() };
        } else if let Some((_, registers)) = line.split_once("info    : Used ") {
            if !stack.is_empty() {
                let registers = registers.split(',').next().unwrap_or_default();
                warnings.push(format!("kernel {kernel}: {stack}, {registers}"));
            }
        } else if line.contains("warning") || line.contains("Performance Loss") {
            warnings.push(line.trim().to_owned());
        }
    }
    warnings
}

/// The Rust source that puts the images in the binary, aligned as the driver's loader wants them.
fn list(fatbins: &[Fatbin]) -> String {
    let mut list = "#[repr(align(16))]\nstruct Aligned<const BYTES: usize>([u8; BYTES]);\n\n\
        /// Each file of `kernels/` with its machine code.\nconst FATBINS: &[(&str, &[u8])] = &[\n"
        .to_owned();
    for fatbin in fatbins {
        let name = fatbin.source.file_stem().unwrap_or_default().to_string_lossy();
        let image = fatbin.image.to_string_lossy();
        // Writing to a string cannot fail.
        let _ = writeln!(list, "    ({name:?}, &Aligned(*include_bytes!({image:?})).0),");
    }
    list + "];\n"
}
