//! Which shapes of factors belong together, and the shape of the ΔW that they make: `[out, in, kernel height, kernel
//! width]`. The weight of a linear layer is a convolution with a 1×1 kernel. `diffusion::lora::update` computes ΔW.

/// Shape of a layer's weight.
pub type Weight = [usize; 4];

/// The four dimensions of a weight; missing kernel dimensions are 1.
pub fn sides(shape: &[usize]) -> Weight {
    std::array::from_fn(|at| shape.get(at).copied().unwrap_or(1))
}

/// Whether it has the rank of a linear layer's or a convolution's weight.
pub fn is_weight(shape: &[usize]) -> bool {
    matches!(shape.len(), 2 | 4)
}

/// LoRA and LoCon: `down` is `[rank, in]` or `[rank, in, kernel, kernel]`, `up` is `[out, rank]` or `[out, rank, 1,
/// 1]`. With the core `mid`, `[rank', rank, kernel, kernel]`, `down` is pointwise and `up` has rank'.
pub fn low_rank(down: &[usize], mid: Option<&[usize]>, up: &[usize]) -> Option<Weight> {
    let (&[rank, inputs, ref kernel @ ..], &[outputs, up_rank, ref up_kernel @ ..]) = (down, up) else { return None };
    let pointwise = |kernel: &[usize]| kernel.is_empty() || kernel == [1, 1];
    let [.., height, width] = match mid {
        None if rank == up_rank && (kernel.is_empty() || kernel.len() == 2) => sides(down),
        Some(core @ &[outer, inner, _, _]) if (outer, inner) == (up_rank, rank) && pointwise(kernel) => sides(core),
        _ => return None,
    };
    pointwise(up_kernel).then_some([outputs, inputs, height, width])
}

/// LoHa: `a` are `[out, rank]`, `b` are `[rank, in]` or `[rank, in, kernel, kernel]`. With `cores`, `[rank, rank,
/// kernel, kernel]`, `a` are `[rank, out]`.
pub fn loha(a: [&[usize]; 2], b: [&[usize]; 2], cores: Option<[&[usize]; 2]>) -> Option<Weight> {
    if !a.iter().chain(&b).all(|shape| is_weight(shape)) {
        return None;
    }
    let ([a1, a2], [b1, b2]) = (a.map(sides), b.map(sides));
    match cores {
        None => {
            let fine = a1[0] == a2[0] && b1[1..] == b2[1..] && (a1[1], a2[1]) == (b1[0], b2[0]);
            (fine && a1[2..] == [1, 1] && a2[2..] == [1, 1]).then_some([a1[0], b1[1], b1[2], b1[3]])
        }
        Some([t1, t2]) => {
            let (&[i1, j1, height, width], &[i2, j2, ..]) = (t1, t2) else { return None };
            let fine = (i1, i2) == (a1[0], a2[0]) && (j1, j2) == (b1[0], b2[0]);
            let kernels = t1.get(2..) == t2.get(2..);
            (fine && kernels && a1[1] == a2[1] && b1[1] == b2[1]).then_some([a1[1], b1[1], height, width])
        }
    }
}

/// One side of LoKr's product.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    Whole(&'a [usize]),
    /// `a · b`, or with a core `[rank, rank, kernel, kernel]` and `a` as `[rank, rows]`
    Factored {
        a: &'a [usize],
        b: &'a [usize],
        core: Option<&'a [usize]>,
    },
}

impl Side<'_> {
    fn shape(self) -> Option<Weight> {
        match self {
            Self::Whole(whole) => is_weight(whole).then(|| sides(whole)),
            Self::Factored { a, b, core: None } => {
                let (&[rows, rank], [b_rank, columns, height, width]) = (a, sides(b)) else { return None };
                (rank == b_rank && is_weight(b)).then_some([rows, columns, height, width])
            }
            Self::Factored { a, b, core: Some(core) } => {
                let (&[a_rank, rows], &[b_rank, columns]) = (a, b) else { return None };
                let &[i, j, height, width] = core else { return None };
                ((i, j) == (a_rank, b_rank)).then_some([rows, columns, height, width])
            }
        }
    }

    /// The rank, if the side is factored.
    pub fn rank(self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Factored { b, .. } => b.first().copied(),
        }
    }
}

/// LoKr: the shapes `[a, c]` and `[b, d, kernel, kernel]` of the two sides, whose product is `[a·b, c·d, kernel,
/// kernel]`.
pub fn lokr(left: Side, right: Side) -> Option<([usize; 2], Weight)> {
    let ([a, c, 1, 1], right @ [b, d, ..]) = (left.shape()?, right.shape()?) else { return None };
    (a.checked_mul(b).is_some() && c.checked_mul(d).is_some()).then_some(([a, c], right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_one_rank_belong_together() {
        assert_eq!(low_rank(&[4, 10], None, &[20, 4]), Some([20, 10, 1, 1]));
        assert_eq!(low_rank(&[4, 10, 3, 3], None, &[20, 4, 1, 1]), Some([20, 10, 3, 3]));
        assert_eq!(low_rank(&[4, 10, 1, 1], None, &[20, 4]), Some([20, 10, 1, 1]));
        assert_eq!(low_rank(&[4, 10], Some(&[5, 4, 3, 3]), &[20, 5]), Some([20, 10, 3, 3]));
        for (down, mid, up) in [
            (&[4, 10][..], None, &[20, 5][..]),
            (&[4], None, &[20, 4]),
            (&[4, 10, 1], None, &[20, 4]),
            (&[4, 10], None, &[20, 4, 3, 3]),
            (&[4, 10, 3, 3], Some(&[5, 4, 3, 3][..]), &[20, 5]),
            (&[4, 10], Some(&[4, 5, 3, 3]), &[20, 5]),
        ] {
            assert_eq!(low_rank(down, mid, up), None, "{down:?} {mid:?} {up:?}");
        }
    }

    #[test]
    fn products_of_sides_do_not_overflow() {
        let (small, large) = (Side::Whole(&[2, 2]), Side::Whole(&[usize::MAX, 3, 3, 3]));
        assert_eq!(lokr(small, Side::Whole(&[5, 3, 3, 3])), Some(([2, 2], [5, 3, 3, 3])));
        assert_eq!(lokr(small, large), None);
        assert_eq!(lokr(Side::Whole(&[2, 2, 3, 3]), small), None, "only the right side has a kernel");
        let factored = Side::Factored { a: &[6, 2], b: &[2, 4], core: None };
        assert_eq!((lokr(factored, small), factored.rank()), (Some(([6, 4], [2, 2, 1, 1])), Some(2)));
        assert_eq!(lokr(Side::Factored { a: &[6, 2], b: &[3, 4], core: None }, small), None);
    }
}
