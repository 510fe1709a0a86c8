//! Arithmetic for loops that compile to vector instructions.

/// Defines a function whose loops use the widest vector instructions of the CPU at run time: builds target any x86-64,
/// which guarantees only SSE2. The functions that it calls must be inlined to benefit.
macro_rules! vectorised {
    ($(#[$doc:meta])* fn $name:ident<$life:lifetime>($($argument:ident: $type:ty),+ $(,)?) -> $out:ty $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel")]
        pub(super) fn $name<$life>($($argument: $type),+) -> $out {
            struct Work<$life> { $($argument: $type),+ }
            impl<$life> pulp::WithSimd for Work<$life> {
                type Output = $out;
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let Self { $($argument),+ } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Work { $($argument),+ })
        }
    };
}
pub(super) use vectorised;

/// Values per widest vector register. Loops over arrays of this length become single instructions.
pub(super) const LANES: usize = 16;

/// `a·b + c`, fused if the build target supports it: otherwise `mul_add` is a slow library call.
#[inline(always)]
pub(super) fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_feature = "fma") { a.mul_add(b, c) } else { a * b + c }
}

/// 1 / (1 + e^−z)
#[inline(always)]
pub(super) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + exponential(-z))
}

/// e^x by a polynomial for 2^f, in steps that the compiler can vectorise. The relative error is below 1e-6. The
/// result is clamped to 2^−125..2^125.
#[inline(always)]
pub(super) fn exponential(x: f32) -> f32 {
    // Adding and subtracting 1.5·2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let t = (x * std::f32::consts::LOG2_E).clamp(-125.0, 125.0);
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    let series = [0.001_339_887_4, 0.009_618_13, 0.055_503_57, 0.240_226_5, std::f32::consts::LN_2, 1.0];
    let power = series.iter().fold(0.000_154_034_6, |sum, term| fused(sum, f, *term));
    power * f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3F80_0000))
}

/// Mean and 1/standard deviation of one group.
#[inline(always)]
pub(super) fn moments(group: &[f32], epsilon: f64) -> (f32, f32) {
    let (chunks, rest) = group.as_chunks::<LANES>();
    let count = group.len() as f32;
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    let mean = (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()) / count;
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let centred = chunk[lane] - mean;
            lanes[lane] = fused(centred, centred, lanes[lane]);
        }
    }
    let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (lanes.iter().sum::<f32>() + rest) / count;
    (mean, 1.0 / (variance + epsilon as f32).sqrt())
}

/// The sum of a gradient, and the sum of its products with a function of the values.
#[inline(always)]
pub(super) fn sums_along(gradient: &[f32], x: &[f32], function: impl Fn(f32) -> f32) -> (f32, f32) {
    let (mut plain, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
    let ((g, g_rest), (x, x_rest)) = (gradient.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    for (g, x) in g.iter().zip(x) {
        for lane in 0..LANES {
            plain[lane] += g[lane];
            along[lane] = fused(g[lane], function(x[lane]), along[lane]);
        }
    }
    for (g, x) in g_rest.iter().zip(x_rest) {
        plain[0] += g;
        along[0] += g * function(*x);
    }
    (plain.iter().sum(), along.iter().sum())
}
