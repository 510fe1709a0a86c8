-- Uploads of pictures in formats that are stored as PNG.
ALTER TABLE uploads DROP CONSTRAINT uploads_media_type_check;
ALTER TABLE uploads ADD CONSTRAINT uploads_media_type_check
    CHECK (media_type IN ('image/png', 'image/jpeg', 'image/webp', 'image/gif', 'image/bmp', 'image/tiff'));
