//! The source picture of a request as latents, and the inpainting mask. The schedulers add the noise.

use burn::prelude::*;

use super::PictureRequest;
use crate::image;
use crate::networks::vae::{Autoencoder, Posterior};
use crate::noise::Noise;

/// A request's picture and mask, encoded once for all pictures of the request.
#[derive(Debug, Clone)]
pub struct Original {
    posterior: Posterior,
    repainted: Option<Repainted>,
}

#[derive(Debug, Clone)]
struct Repainted {
    /// 1 where the picture is repainted, 0 where it is kept: `[1, 1, height / factor, width / factor]`
    mask: Tensor<4>,
    /// The picture with grey where it is repainted.
    masked: Option<Posterior>,
}

impl Original {
    /// Resizes, encodes and masks as diffusers' `VaeImageProcessor` does: Lanczos for picture and mask, then a
    /// threshold of ½ on the mask, of which every `factor`th pixel is used. `None` if the request has no picture.
    ///
    /// `sees_masked`: whether the denoiser takes the masked picture as input.
    ///
    /// References:
    /// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/image_processor.py#L607-L736>
    /// - <https://github.com/huggingface/diffusers/blob/58eb52c0803ea9af3abec60841c2a093bdf1f951/src/diffusers/image_processor.py#L462-L521>
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

    /// Normalised latents of the picture, sampled from the encoder's distribution.
    pub(super) fn draw(&self, vae: &Autoencoder, noise: &mut Noise) -> Tensor<4> {
        vae.normalise(self.posterior.clone().sample(noise))
    }

    /// The same for the masked picture. Sampled even if it is unused, since the reference does.
    pub(super) fn draw_masked(&self, vae: &Autoencoder, noise: &mut Noise) -> Option<Tensor<4>> {
        let repainted = self.repainted.as_ref()?;
        let masked = repainted.masked.as_ref().unwrap_or(&self.posterior).clone().sample(noise);
        repainted.masked.is_some().then(|| vae.normalise(masked))
    }

    /// 1 where the picture is repainted, 0 where it is kept: `[1, 1, height / factor, width / factor]`.
    pub(super) fn mask(&self) -> Option<Tensor<4>> {
        Some(self.repainted.as_ref()?.mask.clone())
    }
}
