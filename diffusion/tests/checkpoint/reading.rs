//! The reading of weights can be followed, and ended at any moment; a half-read model leaves nothing behind.

use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use burn::prelude::*;
use diffusion::checkpoint::{BytesRead, Reading};
use diffusion::{Error, Keep, LoadOptions, PictureRequest, Pipeline};
use image::RgbImage;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn ember() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ember")
}

fn load(folder: &Path, options: LoadOptions, reading: &Reading) -> diffusion::Result<Pipeline> {
    Pipeline::load_followed(folder, &Device::flex(), options, reading)
}

fn request(pipeline: &Pipeline) -> PictureRequest {
    PictureRequest { width: 64, height: 64, num_inference_steps: 2, ..pipeline.request("a fox", 3) }
}

fn pictures(pipeline: &Pipeline) -> diffusion::Result<Vec<RgbImage>> {
    pipeline.generate(&request(pipeline), &mut |_| ControlFlow::Continue(()))
}

/// The reports, and after how many more of them the reading ends.
#[derive(Clone, Default)]
struct Follower {
    seen: Arc<Mutex<Vec<Option<BytesRead>>>>,
    left: Arc<AtomicUsize>,
}

impl Follower {
    fn reading(&self) -> Reading {
        self.end_after(usize::MAX);
        let Self { seen, left } = self.clone();
        Reading::followed_by(move |read| {
            seen.lock().unwrap().push(read);
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    }

    fn end_after(&self, reports: usize) {
        self.left.store(reports, Ordering::SeqCst);
    }

    fn seen(&self) -> Vec<Option<BytesRead>> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Every way to keep networks, and streamed blocks.
fn ways() -> Vec<LoadOptions> {
    let kept = [Keep::All, Keep::Denoiser, Keep::One, Keep::Nothing];
    let mut ways = kept.map(|keep| LoadOptions { keep, ..LoadOptions::default() }).to_vec();
    ways.push(LoadOptions { keep: Keep::Nothing, resident_blocks: Some(1), ..LoadOptions::default() });
    ways
}

#[test]
fn a_model_is_one_stage_whose_bytes_are_those_of_its_files() {
    for name in ["flux-tiny", "flux-tiny-cfg", "sd15-tiny", "sd21-tiny", "sdxl-tiny"] {
        for options in ways() {
            let follower = Follower::default();
            load(&goldens(name), options, &follower.reading()).unwrap();
            let seen: Vec<_> = follower.seen().into_iter().map(Option::unwrap).collect();
            let [.., before, last] = seen.as_slice() else { panic!("{name}: {seen:?}") };
            assert_eq!((before.bytes, last.bytes), (last.total_bytes, last.total_bytes), "{name}, {options:?}");
            let same = seen.iter().all(|read| read.total_bytes == last.total_bytes && read.bytes <= read.total_bytes);
            assert!(same, "{name}, {options:?}: {seen:?}");
        }
    }
}

#[test]
fn loading_ends_when_it_is_canceled_and_can_be_repeated() {
    for name in ["flux-tiny", "sd15-tiny", "sdxl-tiny"] {
        let follower = Follower::default();
        let reading = follower.reading();
        let plain = pictures(&load(&goldens(name), LoadOptions::default(), &reading).unwrap()).unwrap();
        let all = follower.seen().len();
        for reports in [0, 1, all / 2, all - 2] {
            follower.end_after(reports);
            let canceled = load(&goldens(name), LoadOptions::default(), &reading);
            assert!(matches!(canceled, Err(Error::Canceled)), "{name} after {reports} of {all}: {canceled:?}");
            let seen = follower.seen().len();
            assert!(seen <= reports + 32, "{name}: {seen} reports, and it was to end after {reports} of {all}");
        }
        follower.end_after(usize::MAX);
        assert!(pictures(&load(&goldens(name), LoadOptions::default(), &reading).unwrap()).unwrap() == plain, "{name}");
    }
}

/// Text encoders and denoiser that are loaded again within a request, and streamed blocks.
#[test]
fn a_request_that_reads_weights_can_be_canceled_at_each_of_them() {
    for (name, folder) in [("ember", ember()), ("sd15-tiny", goldens("sd15-tiny")), ("sdxl-tiny", goldens("sdxl-tiny"))]
    {
        let plain = pictures(&Pipeline::load(&folder, &Device::flex()).unwrap()).unwrap();
        for options in ways().into_iter().filter(|options| options.keep > Keep::All) {
            // The larger model takes longer, and only its blocks can be streamed.
            if (name == "ember") != options.resident_blocks.is_some() {
                continue;
            }
            let follower = Follower::default();
            let reading = follower.reading();
            let fresh = || load(&folder, options, &reading).unwrap();
            let pipeline = fresh();
            follower.seen();
            assert!(pictures(&pipeline).unwrap() == plain, "{name}, {options:?}");
            let all = follower.seen();
            let streams = all.iter().any(Option::is_none);
            assert_eq!(streams, name == "ember", "{options:?}");
            for reports in [0, all.len() / 3, all.len() * 2 / 3, all.len() - 2] {
                let pipeline = fresh();
                follower.end_after(reports);
                let canceled = pictures(&pipeline);
                assert!(matches!(canceled, Err(Error::Canceled)), "{name}, {options:?}, {reports} of {}", all.len());
                follower.end_after(usize::MAX);
                assert!(pictures(&pipeline).unwrap() == plain, "{name}, {options:?}: after a cancel");
            }
        }
    }
}

#[test]
fn a_file_that_is_shortened_while_it_is_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    copy(&goldens("flux-tiny"), folder.path());
    let file = folder.path().join("transformer/diffusion_pytorch_model-00003-of-00005.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let cut = file.clone();
    let shortening = Reading::followed_by(move |_| {
        OpenOptions::new().write(true).open(&cut).unwrap().set_len(100_000).unwrap();
        ControlFlow::Continue(())
    });
    let error = load(folder.path(), LoadOptions::default(), &shortening).unwrap_err();
    let Error::File { path, source } = &error else { panic!("{error:?}") };
    assert_eq!((path, source.kind()), (&file, std::io::ErrorKind::UnexpectedEof));
    assert!(source.to_string().starts_with("the file was shortened while it was read: it now ends"), "{source}");
    std::fs::write(&file, whole).unwrap();
    load(folder.path(), LoadOptions::default(), &Reading::default()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy(&from, &to) } else { assert!(std::fs::copy(from, to).is_ok()) }
    }
}
