// Low-bit weights in one buffer: the codes, then scales (two float16 a word, or one float32), then zeros (four uint8 a
// word), as Packed.words, .scales and .zeros of pytest_webaccel/engines/packing hold them, one after the other.
//
// Whoever takes this declares `packed`, array<u32>, and says where scales and zeros begin.

override BITS: u32;
override GROUP: u32;
override SCALE_BITS: u32 = 16;
override HAS_ZEROS: bool = true;

// Code `at` of codes that begin at word `base`, a row's or a group's first.
fn code_at(base: u32, at: u32) -> f32 {
  let first = base + at / 32u * BITS;
  if (BITS == 3u) {
    let low = (packed[first + at % 32u / 16u] >> (at % 16u * 2u)) & 3u;
    return f32(low | (((packed[first + 2u] >> (at % 32u)) & 1u) << 2u));
  }
  let bit = at % 32u * BITS;
  return f32((packed[first + bit / 32u] >> (bit % 32u)) & ((1u << BITS) - 1u));
}

// Codes 4 * part to 4 * part + 3 of the block of 32 whose words begin at `base`.
fn codes_at(base: u32, part: u32) -> vec4<f32> {
  let lanes = vec4<u32>(0u, 1u, 2u, 3u);
  if (BITS == 3u) {
    let low = (vec4<u32>(packed[base + part / 4u]) >> ((part % 4u) * 8u + lanes * 2u)) & vec4<u32>(3u);
    let high = (vec4<u32>(packed[base + 2u]) >> (part * 4u + lanes)) & vec4<u32>(1u);
    return vec4<f32>(low | (high << vec4<u32>(2u)));
  }
  let first = part * 4u * BITS;
  let word = packed[base + first / 32u];
  return vec4<f32>((vec4<u32>(word) >> (first % 32u + lanes * BITS)) & vec4<u32>((1u << BITS) - 1u));
}

fn scale_at(begin: u32, group: u32) -> f32 {
  if (SCALE_BITS == 32u) {
    return bitcast<f32>(packed[begin + group]);
  }
  return unpack2x16float(packed[begin + group / 2u])[group % 2u];
}

fn zero_at(begin: u32, group: u32) -> f32 {
  if (!HAS_ZEROS) {
    return f32(1u << (BITS - 1u));
  }
  return f32((packed[begin + group / 4u] >> ((group % 4u) * 8u)) & 255u);
}
