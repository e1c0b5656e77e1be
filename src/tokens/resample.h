#pragma once

#include "perceiver/tokens/image_processor.h"

// The resizers behind resize_image(), one per library that is reproduced. All take [H, W, C] U8
// with non-empty extents.
namespace perceiver::tokens {

/// PIL.Image.resize: windowed filter widened when shrinking, 22-bit fixed point, width pass first,
/// both passes rounded and clamped to bytes.
Array resize_pil(const Array& image, const ImageSize& size, ResampleFilter filter);

/// cv2.resize INTER_LINEAR / INTER_CUBIC on bytes: 2 or 4 taps at half-pixel centres with 11-bit
/// weights, edge pixels repeated, one rounding.
/// @throws Error(kUnsupported) for another filter
Array resize_opencv(const Array& image, const ImageSize& size, ResampleFilter filter);

/// tf.image.resize(antialias=False) with half-pixel centres: bilinear, or bicubic a = -0.5 whose
/// taps outside the picture are dropped and the rest normalised. F32 result.
/// @throws Error(kUnsupported) for another filter
Array resize_tensorflow(const Array& image, const ImageSize& size, ResampleFilter filter);

}  // namespace perceiver::tokens
