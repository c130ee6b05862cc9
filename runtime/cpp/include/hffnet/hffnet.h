/* hffnet from C: a bundle and frames in, decisions out. A complete program:

#include <hffnet/hffnet.h>
#include <stdio.h>

int main(int argc, char **argv) {
  hffnet_classifier *classifier = NULL;
  hffnet_prediction *prediction = NULL;
  if (argc != 3) return 2;
  if (hffnet_open(argv[1], NULL, &classifier) != HFFNET_DONE ||
      hffnet_classify_file(classifier, argv[2], &prediction) != HFFNET_DONE) {
    fprintf(stderr, "%s\n", hffnet_last_error());
    hffnet_close(classifier);
    return 1;
  }
  for (size_t level = 0; level < hffnet_depth(prediction); ++level)
    printf("%s %.3f\n", hffnet_class_name(prediction, level), hffnet_confidence(prediction, level));
  hffnet_release(prediction);
  hffnet_close(classifier);
  return 0;
}

 * Ownership: what a function returns through a pointer to a pointer belongs to the caller, who gives it back with
 * hffnet_close or hffnet_release; both take NULL. Text belongs to the object it was asked of.
 * Threads: one classifier per thread; predictions may be read from anywhere.
 * Nothing is thrown across this interface. Functions and struct fields keep their meaning within a major version.
 */
#ifndef HFFNET_HFFNET_H
#define HFFNET_HFFNET_H

#include <stddef.h>

#include "export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hffnet_classifier hffnet_classifier;
typedef struct hffnet_prediction hffnet_prediction;

typedef enum hffnet_status {
  HFFNET_DONE = 0,
  HFFNET_WRONG_USE = 2,  /* a setting or argument is wrong */
  HFFNET_BAD_INPUT = 3,  /* a frame or bundle cannot be read or is refused */
  HFFNET_NO_ENGINE = 4   /* no engine is here, or none can be trusted */
} hffnet_status;

typedef enum hffnet_pixel_depth { HFFNET_UINT8 = 0, HFFNET_UINT16 = 1, HFFNET_FLOAT32 = 2 } hffnet_pixel_depth;

/* Zero or NULL in a field is "auto". */
typedef struct hffnet_options {
  const char *engine;    /* "openvino", ... */
  const char *precision; /* "fp32", "fp16" or "int8" */
  int threads;
} hffnet_options;

/* Opens a bundle and an engine that passed its self-test on it. `options` may be NULL. */
HFFNET_API hffnet_status hffnet_open(const char *bundle, const hffnet_options *options, hffnet_classifier **out);
HFFNET_API void hffnet_close(hffnet_classifier *classifier);

/* Classifies one TIFF, PNG, JPEG or BMP file. */
HFFNET_API hffnet_status hffnet_classify_file(hffnet_classifier *classifier, const char *path,
                                              hffnet_prediction **out);

/* Classifies grey pixels without an info bar; they are read during the call only. Rows are `row_bytes` apart; 16-bit
   and float pixels are aligned to their size. */
HFFNET_API hffnet_status hffnet_classify_pixels(hffnet_classifier *classifier, const void *pixels,
                                                hffnet_pixel_depth depth, size_t height, size_t width,
                                                size_t row_bytes, const char *name, hffnet_prediction **out);
HFFNET_API void hffnet_release(hffnet_prediction *prediction);

/* Levels of the most probable class path; 0 where a gate refused the frame (hffnet_reason says why). */
HFFNET_API size_t hffnet_depth(const hffnet_prediction *prediction);
/* Levels of that path that are sure enough to be the answer; 0 is "unsure". */
HFFNET_API size_t hffnet_answer_depth(const hffnet_prediction *prediction);
/* Class on a level below hffnet_depth, UTF-8, and its probability; NULL and 0 beyond. */
HFFNET_API const char *hffnet_class_name(const hffnet_prediction *prediction, size_t level);
HFFNET_API double hffnet_confidence(const hffnet_prediction *prediction, size_t level);
/* Why nothing was classified; NULL where something was. */
HFFNET_API const char *hffnet_reason(const hffnet_prediction *prediction);
/* Evidence, columns x height x width float32 whose mean over positions is the logits; NULL where nothing was
   classified. */
HFFNET_API const float *hffnet_evidence(const hffnet_prediction *prediction, size_t *columns, size_t *height,
                                        size_t *width);
/* The whole result as one JSON document, as `hffnet classify --json` has it. */
HFFNET_API const char *hffnet_json(const hffnet_prediction *prediction);

/* Sentence of the last call in this thread that did not return HFFNET_DONE. */
HFFNET_API const char *hffnet_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
