//! How fast weights come from a disk to a device, beside what disk and bus allow alone.
//!
//! Of a file of its own, which the system is told to forget before each reading from the disk. Must not know models.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use device::{CopyStream, Device, Dtype, Pinned, Tensor, Uploader};
use rustix::fs::{Advice, fadvise};
use tempfile::NamedTempFile;

use crate::weights::map;
use crate::{Error, Result};

/// Of a tensor: about what the large ones of a transformer take.
const TENSOR_BYTES: usize = 64 << 20;
/// Of a read of the disk alone, and of a copy over the bus alone.
const PIECE_BYTES: usize = 8 << 20;
/// Readers of the disk alone: as many as fill the loader's pieces.
const READERS: usize = 4;

/// Bytes a second of each way.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// From the disk to the host alone.
    pub disk: f64,
    /// From pinned memory to the device alone.
    pub bus: f64,
    /// From the disk to the device, as models are loaded.
    pub loading: f64,
    /// The same from the system's cache.
    pub loading_cached: f64,
}

/// Measures with a file of `bytes` in the folder `scratch`, which is removed again.
///
/// # Errors
/// [`Error::Io`]; the device's.
pub fn loading(device: &Device, scratch: &Path, bytes: usize) -> Result<Loading> {
    let file = Scratch::write(scratch, bytes)?;
    let rate = |run: &mut dyn FnMut() -> Result<()>| {
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        Ok::<_, Error>(bytes as f64 / start.elapsed().as_secs_f64())
    };
    // Once before it is timed: the device's first copies also set it up.
    file.load(device)?;
    file.forget()?;
    let disk = rate(&mut || file.read())?;
    let bus = rate(&mut || copy_pinned(device, bytes))?;
    file.forget()?;
    let loading = rate(&mut || file.load(device))?;
    let loading_cached = rate(&mut || file.load(device))?;
    Ok(Loading { disk, bus, loading, loading_cached })
}

fn copy_pinned(device: &Device, bytes: usize) -> Result<()> {
    let (from, copies) = (Pinned::new(device, PIECE_BYTES)?, CopyStream::new(device)?);
    let to = Tensor::empty(device, &[PIECE_BYTES], Dtype::U8)?;
    for _ in 0..bytes.div_ceil(PIECE_BYTES) {
        copies.upload(&to, &from, 0)?;
    }
    Ok(copies.record()?.synchronize()?)
}

/// A file that is removed when it is not needed any more.
struct Scratch {
    file: NamedTempFile,
    bytes: usize,
}

impl Scratch {
    fn write(dir: &Path, bytes: usize) -> Result<Self> {
        let mut file = NamedTempFile::new_in(dir).map_err(|e| Error::io(dir, e))?;
        // No zeros, which a file system may not store.
        let piece: Vec<u8> =
            (0..PIECE_BYTES as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        (0..bytes)
            .step_by(PIECE_BYTES)
            .try_for_each(|start| file.write_all(&piece[..PIECE_BYTES.min(bytes - start)]))
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| Error::io(file.path(), e))?;
        Ok(Self { file, bytes })
    }

    /// Has the system forget what it keeps of it in memory.
    fn forget(&self) -> Result<()> {
        let forgotten = fadvise(self.file.as_file(), 0, None, Advice::DontNeed);
        forgotten.map_err(|e| Error::io(self.file.path(), e.into()))
    }

    fn read(&self) -> Result<()> {
        let part = self.bytes.div_ceil(READERS).next_multiple_of(PIECE_BYTES);
        let read = |reader: usize| {
            let mut buffer = vec![0; PIECE_BYTES];
            let end = self.bytes.min((reader + 1) * part);
            (reader * part..end).step_by(PIECE_BYTES).try_for_each(|offset| {
                self.file.as_file().read_exact_at(&mut buffer[..PIECE_BYTES.min(end - offset)], offset as u64)
            })
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|reader| scope.spawn(move || read(reader))).collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
        .map_err(|e| Error::io(self.file.path(), e))
    }

    fn load(&self, device: &Device) -> Result<()> {
        let (map, uploader) = (map(self.file.path())?, Uploader::new(device)?);
        for bytes in map.chunks(TENSOR_BYTES) {
            uploader.upload(&Tensor::empty(device, &[bytes.len()], Dtype::U8)?, bytes)?;
        }
        Ok(device.synchronize()?)
    }
}
