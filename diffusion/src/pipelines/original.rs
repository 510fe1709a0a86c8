//! The picture that a request starts from, as the autoencoder sees it, and the mask of what is made anew. How much noise is put
//! on it belongs to the schedulers.

use burn::prelude::*;

use super::PictureRequest;
use crate::image;
use crate::networks::vae::{Autoencoder, Posterior};
use crate::noise::Noise;

/// A request's picture and mask, encoded once for all pictures that are made of them.
#[derive(Debug, Clone)]
pub struct Original {
    posterior: Posterior,
    repainted: Option<Repainted>,
}

#[derive(Debug, Clone)]
struct Repainted {
    /// 1 where the picture is made anew, 0 where it stays: `[1, 1, height / factor, width / factor]`
    mask: Tensor<4>,
    /// The picture with grey where it is made anew.
    masked: Option<Posterior>,
}

impl Original {
    /// Stretches, encodes and masks, as diffusers' `VaeImageProcessor` does: Lanczos for picture and mask, then the mask cut at
    /// one half, and of each latent's pixels the first one for the latent. `None` if the request has no picture.
    ///
    /// `sees_masked` if the denoiser is shown the picture without what is made anew.
    pub(super) fn encode(
        request: &PictureRequest,
        vae: &Autoencoder,
        sees_masked: bool,
        device: &Device,
    ) -> Option<Self> {
        let picture = request.image.as_ref()?;
        let (width, height) = (request.width as u32, request.height as u32);
        let pixels = image::to_tensor(&image::stretch(picture, width, height), device);
        let posterior = vae.encode_sliced(pixels.clone());
        let repainted = request.mask.as_ref().map(|mask| {
            let mask = image::to_mask(&image::stretch(mask, width, height), device);
            let masked = sees_masked.then(|| vae.encode_sliced(pixels * (-mask.clone() + 1.0)));
            let first = s![..;vae.factor() as isize];
            Repainted { mask: mask.slice([s![..], s![..], first, first]), masked }
        });
        Some(Self { posterior, repainted })
    }

    /// Normalised latents of the picture, drawn from what the encoder says of it.
    pub(super) fn draw(&self, vae: &Autoencoder, noise: &mut Noise) -> Tensor<4> {
        vae.normalise(self.posterior.clone().sample(noise))
    }

    /// The same of the picture without what is made anew; drawn even if nobody sees it, since the reference does.
    pub(super) fn draw_masked(&self, vae: &Autoencoder, noise: &mut Noise) -> Option<Tensor<4>> {
        let repainted = self.repainted.as_ref()?;
        let masked = repainted.masked.as_ref().unwrap_or(&self.posterior).clone().sample(noise);
        repainted.masked.is_some().then(|| vae.normalise(masked))
    }

    /// 1 where the picture is made anew, 0 where it stays: `[1, 1, height / factor, width / factor]`.
    pub(super) fn mask(&self) -> Option<Tensor<4>> {
        Some(self.repainted.as_ref()?.mask.clone())
    }
}
