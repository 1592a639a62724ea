/* The C API of `cln`, for other languages (library target cln::c, libcln_c).
 *
 * Conventions: images are 8-bit grey, BGR or BGRA; points are in pixels, the centre of the top-left pixel is (0, 0),
 * x right, y down, z nearer. No exception crosses this API, and there is no global state: every function that can fail
 * returns a cln_status and, where `error` is not NULL, writes a message there. Handles are freed by their own function,
 * which takes NULL too. A face model may be shared between threads; a reconstructor and a filter belong to one thread
 * at a time. Output buffers are the caller's; on failure their content is undefined.
 */
#ifndef CLN_CLN_H
#define CLN_CLN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#if defined(CLN_C_BUILD)
#define CLN_API __declspec(dllexport)
#else
#define CLN_API __declspec(dllimport)
#endif
#else
#define CLN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cln_status {
  CLN_OK = 0,
  CLN_INVALID_INPUT = 1,      /* an argument has the wrong shape or value */
  CLN_FILE_NOT_FOUND = 2,     /* there is no such file, or it cannot be read */
  CLN_FILE_FORMAT = 3,        /* a file is truncated, or of another format */
  CLN_MISMATCH = 4,           /* an engine and a face model that do not belong together */
  CLN_ENGINE_UNAVAILABLE = 5, /* a library or a device that an engine needs is not there */
  CLN_INTERNAL = 6            /* out of memory, or a defect of this library */
} cln_status;

typedef struct cln_error {
  char message[1024]; /* UTF-8, ended by 0, cut where it is longer */
} cln_error;

typedef struct cln_image {
  const uint8_t* data; /* first byte of the top row */
  int32_t width;
  int32_t height;
  ptrdiff_t stride; /* bytes from a row to the next */
  int32_t channels; /* 1 (grey), 3 (BGR) or 4 (BGRA) */
} cln_image;

typedef struct cln_box {
  double x, y, width, height; /* image pixels, tight around brows, chin and cheeks */
  double angle;               /* degrees: the box is turned about its middle, clockwise as seen */
} cln_box;

typedef struct cln_roi {
  double center_x, center_y, side; /* image pixels */
  double angle;                    /* degrees: turn of its x axis against the image's, clockwise as seen */
} cln_roi;

typedef struct cln_pose {
  double yaw, pitch, roll; /* degrees: yaw > 0 to the image's left, pitch > 0 up, roll > 0 clockwise */
  double rotation[9];      /* row-major, model frame to a camera frame with y up */
  double scale;            /* image pixels per millimetre */
} cln_pose;

typedef struct cln_face_model cln_face_model;
typedef struct cln_reconstructor cln_reconstructor;
typedef struct cln_one_euro cln_one_euro;
typedef struct cln_tracker cln_tracker;

typedef struct cln_detection {
  cln_roi roi; /* the region to cut */
  double score;
} cln_detection;

/* Finds faces in an image: writes at most `capacity`, best first, and returns how many. `thorough` is 0 where the next
 * frame is another chance; `user` is what cln_tracker_create was given. */
typedef size_t (*cln_detector)(const cln_image* image, int32_t thorough, cln_detection* found, size_t capacity,
                               void* user);

typedef enum cln_smoothing { CLN_SMOOTHING_OFF = 0, CLN_SMOOTHING_STILL = 1, CLN_SMOOTHING_RESPONSIVE = 2 } cln_smoothing;

/* Version of the library, such as "0.1.0". */
CLN_API const char* cln_version(void);

/* The region of a face box: its middle, and sqrt(2) times its longer side. */
CLN_API cln_status cln_roi_from_box(const cln_box* box, cln_roi* roi, cln_error* error);

/* Cuts `count` regions into `out`, uint8 (count, size, size, 3), BGR. */
CLN_API cln_status cln_crop(const cln_image* image, const cln_roi* rois, size_t count, int32_t size, uint8_t* out,
                            cln_error* error);

/* Reads a face-model file; free it with cln_face_model_free. */
CLN_API cln_status cln_face_model_load(const char* path, cln_face_model** model, cln_error* error);
CLN_API void cln_face_model_free(cln_face_model* model);

/* 0 where `model` is NULL. */
CLN_API size_t cln_face_model_num_params(const cln_face_model* model);
CLN_API size_t cln_face_model_vertex_count(const cln_face_model* model);
CLN_API size_t cln_face_model_triangle_count(const cln_face_model* model);

/* (T, 3) vertex numbers, counter-clockwise seen from outside; valid as long as the model. NULL where `model` is. */
CLN_API const int32_t* cln_face_model_triangles(const cln_face_model* model);

/* Points in the crop's frame, of params (batch, num_params): landmarks (batch, 68, 3), vertices (batch, N, 3). */
CLN_API cln_status cln_face_model_landmarks(const cln_face_model* model, const float* params, size_t batch, float* out,
                                            cln_error* error);
CLN_API cln_status cln_face_model_vertices(const cln_face_model* model, const float* params, size_t batch, float* out,
                                           cln_error* error);

/* Loads an engine (.onnx or .engine) for a face model, which is kept alive as long as it is needed.
 * threads: of a CPU engine; 0 for its own choice. Free it with cln_reconstructor_free. */
CLN_API cln_status cln_reconstructor_create(const char* engine, const cln_face_model* model, int32_t threads,
                                            cln_reconstructor** reconstructor, cln_error* error);
CLN_API void cln_reconstructor_free(cln_reconstructor* reconstructor);

/* Reconstructs the faces in `count` boxes, in their order, into the caller's arrays, in image pixels; each may be NULL:
 * landmarks (count, 68, 3), vertices (count, N, 3), poses (count), params (count, num_params; crop frame). */
CLN_API cln_status cln_reconstruct(cln_reconstructor* reconstructor, const cln_image* image, const cln_box* boxes,
                                   size_t count, float* landmarks, float* vertices, cln_pose* poses, float* params,
                                   cln_error* error);

/* The same for boxes that a detector estimated: faces whose region was off are seen again, in the one they ask for
 * (cln::Reconstructor::look_again). */
CLN_API cln_status cln_reconstruct_detected(cln_reconstructor* reconstructor, const cln_image* image,
                                            const cln_box* boxes, size_t count, float* landmarks, float* vertices,
                                            cln_pose* poses, float* params, cln_error* error);

/* Follows faces through the frames of a video, with ids that stay (cln/tracker.hpp). The reconstructor must outlive it.
 * max_faces: at most so many; patience: seconds for which a face that is gone keeps its id. */
CLN_API cln_status cln_tracker_create(cln_reconstructor* reconstructor, cln_detector detector, void* user,
                                      int32_t max_faces, cln_smoothing smoothing, double patience,
                                      cln_tracker** tracker, cln_error* error);
CLN_API void cln_tracker_free(cln_tracker* tracker);

/* Forgets all faces and the time: the next frame starts another video. */
CLN_API void cln_tracker_reset(cln_tracker* tracker);

/* The faces of the next frame, taken at `seconds`, smoothed, by id, into the caller's arrays of max_faces faces each,
 * any of which may be NULL: ids (F), landmarks (F, 68, 3), poses (F), params (F, num_params). count: how many. */
CLN_API cln_status cln_tracker_track(cln_tracker* tracker, const cln_image* image, double seconds, size_t* count,
                                     int32_t* ids, float* landmarks, cln_pose* poses, float* params, cln_error* error);

/* A One Euro filter (Casiez et al. 2012) of `count` values: frequencies in Hz, see cln/one_euro.hpp. */
CLN_API cln_status cln_one_euro_create(size_t count, double min_cutoff, double beta, double derivative_cutoff,
                                       cln_one_euro** filter, cln_error* error);
CLN_API void cln_one_euro_free(cln_one_euro* filter);

/* Filters values (count,) taken at `seconds`, in place. */
CLN_API cln_status cln_one_euro_filter(cln_one_euro* filter, double seconds, float* values, cln_error* error);

#ifdef __cplusplus
}
#endif

#endif
