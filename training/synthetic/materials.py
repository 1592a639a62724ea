"""What a picture is made of, by number: materials, the rows of skin maps and colours, and a painted pixel's entries."""

SKIN, EYE, TEETH, FLESH, HAIR, CLOTH, GLOSSY = range(7)

# Rows of SkinPaint.maps: what covers the skin, in the order it is put on; then the signed maps.
REDNESS, SPOTS, EYE_AREA, LIDS, LIPS, BEARD, BROWS, LASHES, DETAIL, RELIEF, SMILE, FOREHEAD = range(12)
COVERS, MAPS = 8, 12
# Rows of SkinPaint.colors: those of the covers, then these.
C_SKIN, C_SCLERA, C_IRIS, C_TEETH, C_FLESH = range(COVERS, COVERS + 5)
COLORS = COVERS + 5
# Entries of SkinPaint.numbers after the maps' weights.
GLOSS, SHININESS, LIP_GLOSS, IRIS_COSINE, PUPIL_COSINE, EYE_SHADE, SKIN_SHEEN = range(MAPS, MAPS + 7)
EYE_WET, GLINT, GLINT_COSINE = range(MAPS + 7, MAPS + 10)
NUMBERS = MAPS + 10
EYE_REACH = 2.4
"""Half the side of an eye texture's patch, in iris radii."""

# What the painting passes leave for the lighting pass, per pixel.
P_ALBEDO, P_NORMAL, P_GLOSS, P_SHININESS, P_OPEN, P_SHEEN, P_STRAND, P_SURFACE = 0, 3, 6, 7, 8, 9, 10, 11
