use super::host::{Argument, Format, buffer, integer, is_here, launch, numbers};
use super::{assert_close, every_format, noise};
use half::{bf16, f16};

/// Rows of `width` out of rows of `stride`.
fn narrow<T: Format>(x: &[T], stride: usize, width: usize) -> Vec<Vec<f64>> {
    x.chunks(stride).map(|row| row[..width].iter().map(|x| x.to_f64()).collect()).collect()
}

#[test]
fn rows_are_normalised() {
    fn check<T: Format>(rows: usize, (width, stride): (usize, usize), threads: usize) {
        let eps = 1e-5;
        let (x, weight) = (noise::<T>(rows * stride, 1), noise::<T>(width, 2));
        let out = vec![T::from_f64(9.0); rows * width];
        let arguments =
            [buffer(&x), buffer(&weight), buffer(&out), integer(stride), integer(width), Argument::Real(eps)];
        let out = launch(&format!("rms_norm_{}", T::NAME), rows, threads, &arguments);
        let want = narrow(&x, stride, width).into_iter().flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let numbers = row.into_iter().zip(&weight).map(move |(x, w)| x / (mean + eps).sqrt() * w.to_f64());
            numbers.collect::<Vec<_>>()
        });
        assert_close(&numbers::<T>(&out[2]), &want.collect::<Vec<_>>(), T::NAME);
    }
    if is_here() {
        every_format!(check, 3, (77, 80), 64);
        every_format!(check, 2, (5, 8), 256);
        // Rows of whole vectors.
        every_format!(check, 3, (640, 648), 64);
    }
}

#[test]
fn gates_are_applied() {
    fn check<T: Format>(width: usize, stride: usize) {
        let rows = 3;
        let x: Vec<T> = noise::<T>(rows * stride, 4).iter().map(|x| T::from_f64(x.to_f64() * 30.0)).collect();
        let arguments = [buffer(&x), buffer(&vec![T::from_f64(9.0); rows * width]), integer(stride), integer(width)];
        let out = launch(&format!("silu_mul_{}", T::NAME), rows, 32, &arguments);
        let want = narrow(&x, stride, 2 * width);
        let want = want.iter().flat_map(|row| (0..width).map(|i| row[i] / (1.0 + (-row[i]).exp()) * row[width + i]));
        assert_close(&numbers::<T>(&out[1]), &want.collect::<Vec<_>>(), T::NAME);
    }
    if is_here() {
        every_format!(check, 45, 95);
        every_format!(check, 64, 160);
    }
}

#[test]
fn rows_are_added() {
    fn check<T: Format>(width: usize) {
        let rows = 3;
        let (sums, x) = (noise::<T>(rows * width, 2), noise::<T>(rows * width, 3));
        let out = launch(&format!("add_{}", T::NAME), rows, 32, &[buffer(&sums), buffer(&x), integer(width)]);
        let want: Vec<f64> = sums.iter().zip(&x).map(|(a, b)| a.to_f64() + b.to_f64()).collect();
        assert_close(&numbers::<T>(&out[0]), &want, T::NAME);
    }
    if is_here() {
        every_format!(check, 37);
        every_format!(check, 72);
    }
}

#[test]
fn heads_are_put_apart_and_nothing_else_is_touched() {
    fn check<T: Format>(dim: usize, stride: usize) {
        let (rows, heads, capacity, position) = (4, 3, 9, 2);
        let (x, cache) = (noise::<T>(rows * stride, 5), noise::<T>(heads * capacity * dim, 6));
        let sizes = [stride, capacity, position, heads, dim].map(integer);
        let arguments: Vec<_> = [buffer(&x), buffer(&cache)].into_iter().chain(sizes).collect();
        let out = numbers::<T>(&launch(&format!("append_{}", T::NAME), rows, 32, &arguments)[1]);
        for (i, (out, before)) in out.iter().zip(&cache).enumerate() {
            let (head, token, column) = (i / (capacity * dim), i / dim % capacity, i % dim);
            let inside = (position..position + rows).contains(&token);
            let want = if inside { x[(token - position) * stride + head * dim + column] } else { *before };
            assert_eq!(out.bytes(), want.bytes(), "{head}, {token}, {column}");
        }
    }
    if is_here() {
        every_format!(check, 5, 17);
        every_format!(check, 16, 56);
    }
}

#[test]
fn heads_are_normalised_and_rotated() {
    fn check<T: Format>(heads: usize, dim: usize, pairs: usize, norm: bool) {
        let (rows, stride, eps) = (3, heads * dim + 7, 1e-6);
        let (x, weight) = (noise::<T>(rows * stride, 7), noise::<T>(dim, 8));
        let angles = noise::<f32>(rows * pairs, 9).into_iter().map(|x| f64::from(x) * 3.0).collect::<Vec<_>>();
        let table = |f: fn(f64) -> f64| angles.iter().map(|angle| f(*angle) as f32).collect::<Vec<_>>();
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        let weights = if norm { buffer(&weight) } else { Argument::Null };
        let out = buffer(&vec![T::from_f64(9.0); rows * heads * dim]);
        let sizes = [stride, heads, dim, pairs].map(integer);
        let arguments = [buffer(&x), buffer(&cos), buffer(&sin), weights, out].into_iter().chain(sizes);
        let arguments: Vec<_> = arguments.chain([Argument::Real(eps)]).collect();
        let out = launch(&format!("rotate_{}", T::NAME), rows, 64, &arguments);

        let mut want = Vec::new();
        for (row, x) in narrow(&x, stride, heads * dim).iter().enumerate() {
            for head in x.chunks(dim) {
                let mean = head.iter().map(|x| x * x).sum::<f64>() / dim as f64;
                let value = |i: usize| if norm { head[i] / (mean + eps).sqrt() * weight[i].to_f64() } else { head[i] };
                want.extend((0..dim).map(|i| {
                    let (sin, cos) = angles[row * pairs + i % pairs].sin_cos();
                    match i / pairs {
                        0 => value(i) * cos - value(i + pairs) * sin,
                        1 => value(i) * cos + value(i - pairs) * sin,
                        _ => value(i),
                    }
                }));
            }
        }
        assert_close(&numbers::<T>(out.last().unwrap()), &want, T::NAME);
    }
    if is_here() {
        every_format!(check, 3, 12, 6, false);
        every_format!(check, 2, 80, 37, true);
        every_format!(check, 1, 64, 32, true);
    }
}
