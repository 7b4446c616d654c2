// Arrays: those that Python has packed into the data, and a range of numbers.

const NUMBER_TYPES = { float32: Float32Array, int32: Int32Array, uint16: Uint16Array };

// An array from Python. Its numbers are little-endian, as in every browser of today.
class PackedArray {
  constructor({ shape, dtype, base64, scale = 1 }) {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
    this.numbers = new NUMBER_TYPES[dtype](bytes.buffer);
    this.shape = shape;
    this.scale = scale;
  }

  at(...indices) {
    let place = 0;
    for (let axis = 0; axis < indices.length; axis++) {
      place = place * this.shape[axis] + indices[axis];
    }
    return this.numbers[place] * this.scale;
  }
}

// The data with every packed array in it unpacked.
export function unpacked(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(unpacked);
  if ("base64" in value) return new PackedArray(value);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpacked(item)]));
}

export const range = (n) => Array.from({ length: n }, (_, k) => k);
export const bounded = (x, low, high) => Math.min(high, Math.max(low, x));
