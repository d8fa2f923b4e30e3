/* Statistics of one spiking layer in one pass over its tensors, on a CPU in float32.
 *
 * The definitions are those of accumulators.py; tests hold both to the same numbers. Rows are the M
 * contiguous elements of one sample at one timestep. Sums are taken in double. A block of a row is
 * read from memory once and then stays in the first cache.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024
#define BINS 256
#define LANES 4

typedef struct {
    int32_t shape;     /* of the surrogate, its place in SHAPES of native.py; -1 for none */
    float peak, width;
    float covered;     /* largest distance from the threshold that is covered */
    float open;        /* largest distance at which the surrogate is not 0 */
} Surrogate;

/* Sums of one row: what adds up over samples is told apart later. */
enum { Z, ZZ, INPUT, INPUT2, SPIKES, SLOPE, SLOPE2, COVERED, ROW_SUMS };
/* Counts of one timestep. */
enum { SILENT, SATURATED, MISMATCH, NEAR, OPEN, EXPONENT, COUNTS };

static inline float exponential(float x)
{
    /* exp(x) for x <= 0: 2^k times a polynomial on [-ln2/2, ln2/2], relative error 2e-7. */
    x = x < -87.0f ? -87.0f : x;
    float k = floorf(x * 1.44269504f + 0.5f);
    float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union { int32_t i; float f; } scale;
    scale.i = ((int32_t)k + 127) << 23;
    return p * scale.f;
}

static void slopes(const Surrogate *s, const float *restrict z, float *restrict out, int n)
{
    const float w = s->width, peak = s->peak;
    switch (s->shape) {
    case 0:
        for (int i = 0; i < n; i++) out[i] = fabsf(z[i] / w) < 0.5f ? peak : 0.0f;
        break;
    case 1:
        for (int i = 0; i < n; i++) {
            float h = 1.0f - fabsf(z[i] / w);
            out[i] = peak * (h > 0.0f ? h : 0.0f);
        }
        break;
    case 2:
        for (int i = 0; i < n; i++) out[i] = peak * exponential(-fabsf(z[i] / w));
        break;
    case 3:
        for (int i = 0; i < n; i++) {
            float x = z[i] / w;
            out[i] = peak * exponential(-0.5f * x * x);
        }
        break;
    case 4:
        for (int i = 0; i < n; i++) {
            float e = exponential(-fabsf(z[i] / w)), d = 1.0f + e;
            out[i] = peak * (4.0f * e / (d * d));
        }
        break;
    case 5:
        for (int i = 0; i < n; i++) {
            float d = 1.0f + fabsf(z[i] / w);
            out[i] = peak * (1.0f / (d * d));
        }
        break;
    default:
        for (int i = 0; i < n; i++) {
            float x = z[i] / w;
            out[i] = peak * (1.0f / (1.0f + x * x));
        }
    }
}

static void coarsen(int64_t *counts, int doublings)
{
    int64_t merged[BINS];
    memset(merged, 0, sizeof merged);
    for (int i = 0; i < BINS; i++) {
        int place = i - BINS / 2;
        /* Halving downwards, so that bins below the threshold stay below it. */
        merged[BINS / 2 + (place >> (doublings > 30 ? 30 : doublings))] += counts[i];
    }
    memcpy(counts, merged, sizeof merged);
}

static void count_bins(const float *restrict z, int n, float scale, int exponent,
                       int32_t (*restrict lanes)[BINS])
{
    int32_t bins[BLOCK];
    float factor = ldexpf(64.0f, -exponent);
    if (scale == 1.0f) {
        for (int i = 0; i < n; i++) {
            int32_t bin = (int32_t)floorf(z[i] * factor);
            /* What the factor takes below the smallest number stays on its side. */
            bin = z[i] < 0.0f && bin > -1 ? -1 : bin;
            bins[i] = bin + BINS / 2;
        }
    } else {
        for (int i = 0; i < n; i++) {
            float x = z[i] / scale;
            int32_t bin = (int32_t)floorf(x * factor);
            bin = x < 0.0f && bin > -1 ? -1 : bin;
            bins[i] = bin + BINS / 2;
        }
    }
    int i = 0;
    /* Neighbours that fall into one bin would wait for each other: each has its own histogram. */
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane][bins[i + lane] & (BINS - 1)]++;
    for (; i < n; i++) lanes[0][bins[i] & (BINS - 1)]++;
}

/* Samples [first, last) of [T, N, M]; strides in elements, the innermost is 1. Returns 0, or 1 where
 * something is not finite: then nothing of it counts. */
int forward(const float *u, const float *spikes, const float *current, const int64_t *strides,
            int64_t timesteps, int64_t first, int64_t last, int64_t units, int64_t samples,
            float threshold, float scale, float rounding, int fires_at, int histogram,
            const Surrogate *surrogate, uint8_t *ever, uint8_t *always,
            double *rows, int64_t *counts, int64_t *density, float *extrema)
{
    float z[BLOCK], slope[BLOCK];
    int32_t lanes[LANES][BINS];
    for (int64_t n = first; n < last; n++) {
        for (int64_t t = 0; t < timesteps; t++) {
            const float *pu = u + t * strides[0] + n * strides[1];
            const float *ps = spikes + t * strides[2] + n * strides[3];
            const float *pi = current ? current + t * strides[4] + n * strides[5] : 0;
            uint8_t *pe = ever + n * units, *pa = always + n * units;
            double *row = rows + (t * samples + n) * ROW_SUMS;
            int64_t *count = counts + t * COUNTS;
            int64_t *bins = density + t * BINS;
            double sum[ROW_SUMS] = {0};
            float low = extrema[2 * t], high = extrema[2 * t + 1];
            for (int64_t at = 0; at < units; at += BLOCK) {
                int m = (int)(units - at < BLOCK ? units - at : BLOCK);
                const float *bu = pu + at, *bs = ps + at;
                float block_low = INFINITY, block_high = -INFINITY;
                double a = 0, aa = 0;
#pragma omp simd reduction(+ : a, aa) reduction(min : block_low) reduction(max : block_high)
                for (int i = 0; i < m; i++) {
                    float x = bu[i] - threshold;
                    z[i] = x;
                    block_low = x < block_low ? x : block_low;
                    block_high = x > block_high ? x : block_high;
                    a += (double)x;
                    aa += (double)x * (double)x;
                }
                if (!isfinite(aa)) return 1;
                sum[Z] += a;
                sum[ZZ] += aa;
                low = block_low < low ? block_low : low;
                high = block_high > high ? block_high : high;
                if (pi) {
                    const float *bi = pi + at;
                    double b = 0, bb = 0;
#pragma omp simd reduction(+ : b, bb)
                    for (int i = 0; i < m; i++) {
                        double x = bi[i];
                        b += x;
                        bb += x * x;
                    }
                    if (!isfinite(bb)) return 1;
                    sum[INPUT] += b;
                    sum[INPUT2] += bb;
                }
                int wrong = 0;
                float fired = 0;
#pragma omp simd reduction(+ : wrong, fired)
                for (int i = 0; i < m; i++) {
                    float implied = (fires_at ? z[i] >= 0.0f : z[i] > 0.0f) ? 1.0f : 0.0f;
                    wrong += implied != bs[i];
                    fired += bs[i];
                }
                sum[SPIKES] += fired;
                if (wrong) {
                    int near = 0;
                    for (int i = 0; i < m; i++) {
                        float implied = (fires_at ? z[i] >= 0.0f : z[i] > 0.0f) ? 1.0f : 0.0f;
                        near += implied != bs[i] && fabsf(z[i]) <= rounding;
                    }
                    count[NEAR] += near;
                    count[MISMATCH] += wrong - near;
                }
                int silent = 0, saturated = 0;
                uint8_t *be = pe + at, *ba = pa + at;
                for (int i = 0; i < m; i++) {
                    uint8_t now = bs[i] != 0.0f;
                    be[i] |= now;
                    ba[i] &= now;
                    silent += !be[i];
                    saturated += ba[i];
                }
                count[SILENT] += silent;
                count[SATURATED] += saturated;
                if (histogram) {
                    float reach = -block_low / scale, other = block_high / scale;
                    reach = reach > other ? reach : other;
                    if (!isfinite(reach)) return 1;
                    int exponent;
                    frexpf(reach / 2.0f, &exponent);
                    if (exponent > count[EXPONENT]) {
                        coarsen(bins, exponent - (int)count[EXPONENT]);
                        count[EXPONENT] = exponent;
                    }
                    memset(lanes, 0, sizeof lanes);
                    count_bins(z, m, scale, (int)count[EXPONENT], lanes);
                    for (int i = 0; i < BINS; i++)
                        bins[i] += lanes[0][i] + lanes[1][i] + lanes[2][i] + lanes[3][i];
                }
                if (surrogate->shape >= 0) {
                    double g = 0, gg = 0;
                    int covered = 0, open = 0;
                    float c = surrogate->covered, o = surrogate->open;
                    slopes(surrogate, z, slope, m);
#pragma omp simd reduction(+ : g, gg, covered, open)
                    for (int i = 0; i < m; i++) {
                        double x = slope[i];
                        g += x;
                        gg += x * x;
                        covered += fabsf(z[i]) <= c;
                        open += fabsf(z[i]) <= o;
                    }
                    sum[SLOPE] += g;
                    sum[SLOPE2] += gg;
                    sum[COVERED] += covered;
                    count[OPEN] += open;
                }
            }
            for (int i = 0; i < ROW_SUMS; i++) row[i] = sum[i];
            extrema[2 * t] = low;
            extrema[2 * t + 1] = high;
        }
    }
    return 0;
}

/* Per gradient: its zeros at each timestep, its squares in each row. */
static inline int fold(const float *restrict x, int m, double *square, int64_t *zeros)
{
    double a = 0;
    int none = 0;
#pragma omp simd reduction(+ : a, none)
    for (int i = 0; i < m; i++) {
        a += (double)x[i] * (double)x[i];
        none += x[i] == 0.0f;
    }
    *square += a;
    *zeros += none;
    return !isfinite(a);
}

/* Gradients of samples [first, last); rows is [T, N, 4], zeros [T, 4], in the order s, total, u,
 * residual. The gradient behind the last timestep is 0 where later is null. */
int backward(const float *u, const float *spikes, const float *grad_input, const float *grad_spikes,
             const float *later, const int64_t *strides, int64_t timesteps, int64_t first,
             int64_t last, int64_t units, int64_t samples, float decay, float gain, float threshold,
             int reset, float amount, const Surrogate *surrogate, double *rows, int64_t *zeros)
{
    float total[BLOCK], inner[BLOCK], residual[BLOCK], z[BLOCK], slope[BLOCK], carried[BLOCK];
    for (int64_t n = first; n < last; n++) {
        for (int64_t t = 0; t < timesteps; t++) {
            const float *pu = u + t * strides[0] + n * strides[1];
            const float *ps = spikes + t * strides[2] + n * strides[3];
            const float *pg = grad_input + t * strides[4] + n * strides[5];
            const float *pn = t + 1 < timesteps ? pg + strides[4] : 0;
            const float *pl = !pn && later ? later + n * strides[9] : 0;
            const float *pd = grad_spikes + t * strides[6] + n * strides[7];
            double *row = rows + (t * samples + n) * 4;
            int64_t *zero = zeros + t * 4;
            for (int64_t at = 0; at < units; at += BLOCK) {
                int m = (int)(units - at < BLOCK ? units - at : BLOCK), bad = 0;
                const float *bg = pg + at, *bd = pd + at, *bu = pu + at, *bs = ps + at;
                if (gain == 1.0f)
                    memcpy(inner, bg, m * sizeof(float));
                else
                    for (int i = 0; i < m; i++) inner[i] = bg[i] / gain;
                if (pn && gain == 1.0f)
                    for (int i = 0; i < m; i++) carried[i] = decay * pn[at + i];
                else if (pn)
                    for (int i = 0; i < m; i++) carried[i] = decay * (pn[at + i] / gain);
                else if (pl)
                    for (int i = 0; i < m; i++) carried[i] = decay * pl[at + i];
                else
                    memset(carried, 0, m * sizeof(float));
                const float *whole = bd;
                /* How the gradient runs through the reset: 0 not at all, 1 what a soft one takes
                 * away, 2 u against the value; + 4 where the reset is to a value. */
                if ((reset & 3) == 1) {
                    for (int i = 0; i < m; i++) total[i] = bd[i] - amount * carried[i];
                    whole = total;
                } else if ((reset & 3) == 2) {
                    for (int i = 0; i < m; i++)
                        total[i] = bd[i] + (amount - bu[i]) * carried[i];
                    whole = total;
                }
                bad |= fold(bd, m, row, zero);
                if (whole != bd) bad |= fold(whole, m, row + 1, zero + 1);
                bad |= fold(inner, m, row + 2, zero + 2);
                if (surrogate->shape >= 0) {
                    for (int i = 0; i < m; i++) z[i] = bu[i] - threshold;
                    slopes(surrogate, z, slope, m);
                    if (reset & 4)
                        for (int i = 0; i < m; i++) carried[i] *= 1.0f - bs[i];
                    for (int i = 0; i < m; i++)
                        residual[i] = inner[i] - carried[i] - slope[i] * whole[i];
                    bad |= fold(residual, m, row + 3, zero + 3);
                }
                if (bad) return 1;
            }
        }
    }
    return 0;
}
