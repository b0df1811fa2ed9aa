"""Bodies that move: files and features of skeletons and landmarks, points in space, pictures of them."""
