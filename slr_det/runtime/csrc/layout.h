#ifndef SLR_LAYOUT_H
#define SLR_LAYOUT_H

#include "slr_runtime.h"

/* Whether sizes are positive, and rows and margins long enough for what they hold. */
int slr_layout_ok(const slr_layout *layout);
/* Write zeros around the picture that starts at `plane`. */
void slr_clear_margins(const slr_layout *layout, float *plane);

#endif
